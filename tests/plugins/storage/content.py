"""What tests put on images and volumes."""

from __future__ import annotations

import os
from pathlib import Path

from hostler.core.units import MIB

IMAGE = "0123456789abcdef"


def fill(folder: Path) -> None:
    """A small image: a folder tree, a link, a hard link, a name that is not ASCII, and 2 MB that cannot be compressed."""
    (folder / "etc").mkdir()
    (folder / "etc/ünïcode-名前").write_text("grüße")
    (folder / "etc/hosts").symlink_to("../../../../etc/shadow")
    (folder / "bin").mkdir()
    (folder / "bin/one").write_bytes(os.urandom(2 * MIB))
    os.link(folder / "bin/one", folder / "bin/two")


def write(file: Path, most: int, *, step: int = 64 * 1024) -> int:
    """Write until the disk or quota is full or ``most`` bytes are in the file; how many are. Raises other errors."""
    written = 0
    try:
        with file.open("ab", buffering=0) as out:  # a full quota may refuse the new file itself
            while written < most:
                written += out.write(os.urandom(step))
            os.fsync(out.fileno())
    except OSError as error:
        if error.errno not in (28, 122):
            raise
    return written
