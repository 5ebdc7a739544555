"""The command line: ``hostler``. Each command is imported when it is called, so that ``--help`` and errors come at once."""

from __future__ import annotations

import sys

from hostler.cli.root import cli
from hostler.cli.run import run


def main() -> None:
    """Run the command line and end the process."""
    sys.exit(run(cli))
