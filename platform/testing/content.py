"""What the kit puts on images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hostler.core.units import KIB

#: Names that a file may have and that careless code trips over.
NAMES = ("plain", "ünïcode-名前", " blank ", "-rf", "new\nline", "quote'\"", "a" * 255)


@dataclass(frozen=True)
class Fill:
    """Fills an image: a small tree with strange names, a link that climbs out, and ``bulk`` bytes that cannot be compressed."""

    bulk: int = 64 * KIB
    fails: bool = False

    def __call__(self, folder: Path) -> None:
        for name in ("etc", "bin", "tmp"):
            (folder / name).mkdir()
        for name in NAMES:
            (folder / "etc" / name).write_text(f"content of {name}")
        (folder / "etc/climbs").symlink_to("../../../../etc/shadow")
        with (folder / "bin/bulk").open("wb") as file:
            for done in range(0, self.bulk, 1 << 20):
                file.write(os.urandom(min(1 << 20, self.bulk - done)))
        if self.fails:
            raise RuntimeError("the archive ends here")
