"""Images: ``sha256sum`` and ``tar``."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

from bare.step import Step, Subject, tool
from hostler.contracts.images import UnpackLimits
from hostler.testing.arenas.images import ImagesArena

_FILES, _BYTES = 400, 20_000


class Archive(Subject):
    """An archive of many files."""

    def __init__(self, arena: ImagesArena) -> None:
        self.driver = arena.images
        self._folder = arena.folder
        self._archive = arena.archive(tuple((f"etc/f{number}", "f", "x" * _BYTES) for number in range(_FILES)))
        self._layered = arena.format == "oci"
        self._numbers = itertools.count()

    def _room(self) -> Path:
        folder = self._folder / f"room{next(self._numbers)}"
        folder.mkdir()
        return folder

    def unpack(self, into: Path) -> None:
        """As root, with owners and modes."""
        if not self._layered:
            tool("tar", "-xpf", self._archive, "--numeric-owner", "-C", into)
            return
        layout = self._room()
        tool("tar", "-xf", self._archive, "-C", layout)
        blobs = sorted((layout / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
        tool("sha256sum", *blobs)
        tool("tar", "-xpf", blobs[-1], "--numeric-owner", "-C", into)

    def steps(self, number: int) -> list[Step]:
        ours, bare = self._room(), self._room()
        note = f"{_FILES} files of {_BYTES // 1000} kB: " + ("tar, sha256sum, tar" if self._layered else "tar")
        return [
            Step("accepts", partial(self.driver.accepts, self._archive), partial(tool, "file", "-b", self._archive) if Path("/usr/bin/file").exists() else None, "file"),
            Step("unpack", partial(self.driver.unpack, self._archive, ours, UnpackLimits()), partial(self.unpack, bare), note),
        ]
