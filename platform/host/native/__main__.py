"""``python -m hostler.host.native DIR``: compile the helpers into ``DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from hostler.core.errors import HostlerError
from hostler.host.native import PROGRAMS, build


def main(arguments: list[str]) -> int:
    """Exit status: 0 compiled, 1 failed, 2 wrong arguments."""
    if len(arguments) != 1:
        print("usage: python -m hostler.host.native DIR", file=sys.stderr)
        return 2
    try:
        build(Path(arguments[0]))
    except HostlerError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return 1
    print(" ".join(f"{arguments[0]}/{program}" for program in PROGRAMS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
