"""Whether a folder holds what a checkpoint says: for images that were kept unpacked, so that they need not be unpacked again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import Invalid
from hostler.mobility.drafts import told_of
from hostler.mobility.keys import Key
from hostler.mobility.manifest import Manifest, PartInfo, check_part_name
from hostler.mobility.reading import through


def compare(origin: Path, folder: Path, key: Key | None = None) -> Manifest:
    """Read all of a checkpoint, and of the files of ``folder`` that its parts are named after. Raises :class:`Invalid` for a checkpoint
    that is damaged, and (``differs``) for a file that is not what its part is; files that are no part are passed over."""
    files: list[_Same] = []
    try:
        return through(origin, key, lambda info: _opened(folder, info, files))
    finally:
        for file in files:
            os.close(file.handle)


def _opened(folder: Path, info: PartInfo, files: list[_Same]) -> _Same:
    path = folder / check_part_name(info.name)
    with told_of(path):
        file = _Same(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), path)
    files.append(file)
    return file


@dataclass(frozen=True)
class _Same:
    """One file, held against its part; chunks come from several threads, in any order."""

    handle: int
    path: Path

    def place(self, data: memoryview, offset: int, zeros: bool) -> None:
        """The file must have these bytes there."""
        if os.pread(self.handle, len(data), offset) != bytes(data):
            raise self._differs()

    def finish(self, size: int) -> None:
        """And no more than these."""
        if os.fstat(self.handle).st_size != size:
            raise self._differs()

    def _differs(self) -> Invalid:
        return Invalid(f"{self.path} is not what the checkpoint says", hint="unpack the checkpoint anew", code="differs")
