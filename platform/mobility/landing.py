"""Files beneath one folder, made by handles alone: no name can lead out of it, and nothing that exists is written to."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from hostler.mobility.drafts import told_of
from hostler.mobility.manifest import PartInfo, check_part_name

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Landing:
    """The folder behind the handle ``root``, whose name for people is ``shown``. One file is open at a time."""

    def __init__(self, root: int, shown: Path) -> None:
        self._root = root
        self._shown = shown
        self._folders: dict[str, int] = {}
        self._file: LandingFile | None = None

    def file(self, part: PartInfo) -> LandingFile:
        """A new file for a part. Raises :class:`Invalid` for its name, and what the file system says, typed."""
        folder, _, name = check_part_name(part.name).rpartition("/")
        with told_of(self._shown / part.name):
            self._file = LandingFile(os.open(name, _NEW, 0o600, dir_fd=self._folder(folder)), self._shown / part.name)
        return self._file

    def _folder(self, name: str) -> int:
        if not name:
            return self._root
        if name not in self._folders:
            os.mkdir(name, 0o700, dir_fd=self._root)
            self._folders[name] = os.open(name, _FOLDER, dir_fd=self._root)
        return self._folders[name]

    def close(self) -> None:
        """Let go of all handles, after success or failure."""
        if self._file is not None:
            self._file.close()
        while self._folders:
            os.close(self._folders.popitem()[1])


class LandingFile:
    """One part's file; chunks may be placed from several threads."""

    def __init__(self, handle: int, shown: Path) -> None:
        self._handle = handle
        self._shown = shown
        self._closing = threading.Lock()

    def place(self, data: memoryview, offset: int, zeros: bool) -> None:
        """Write ``data`` at ``offset``; zeros are left out, as holes."""
        if zeros:
            return
        with told_of(self._shown):
            while data:
                count = os.pwrite(self._handle, data, offset)
                data, offset = data[count:], offset + count

    def finish(self, size: int) -> None:
        """Give the file its length, which a hole at its end has not."""
        with told_of(self._shown):
            os.ftruncate(self._handle, size)
        self.close()

    def close(self) -> None:
        """Twice is once."""
        with self._closing:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1
