"""A checkpoint's parts one after the other, each as something to read from: for those that pass them on and keep no copy."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from hostler.mobility.filters import Place, Unpacker, sealer
from hostler.mobility.frames import Chunk, FrameReader, Source
from hostler.mobility.keys import Key
from hostler.mobility.manifest import PartInfo


class Walk:
    """Goes through a stream once. Every digest is held against what is read; all that is wrong is :class:`Invalid`."""

    def __init__(self, source: Source, key: Key | None) -> None:
        self._frames = FrameReader(source)
        self.manifest, digest = self._frames.prefix()
        self._unpacker = Unpacker(self.manifest.filters, sealer(self.manifest.filters.encryption, key, digest))
        self._begun = 0
        self._current: PartStream | None = None

    def open(self, index: int) -> PartStream:
        """The part with that number in the manifest; those before it are passed over, and none is had twice."""
        if index < self._begun:
            raise ValueError(f"part {index} was passed already")
        while True:
            self._pass()
            info = self.manifest.parts[self._begun]
            self._frames.part(self._begun, info)
            self._current = PartStream(self._frames, self._unpacker, self._begun, info)
            self._begun += 1
            if self._begun > index:
                return self._current

    def _pass(self) -> None:
        """Whatever is left of the part that was opened last."""
        if self._current is not None:
            self._current.skip()

    def finish(self) -> None:
        """Pass over all that is left, and see that the stream ends as it should. What was passed over was not held against its digests."""
        if self._begun < len(self.manifest.parts):
            self.open(len(self.manifest.parts) - 1)
        self._pass()
        self._frames.trailer(len(self.manifest.parts))
        self._frames.ended()


class PartStream(io.RawIOBase):
    """One part's original."""

    def __init__(self, frames: FrameReader, unpacker: Unpacker, index: int, info: PartInfo) -> None:
        super().__init__()
        self._frames, self._unpacker, self._index, self._info = frames, unpacker, index, info
        self._left = memoryview(b"")
        self._number = 0
        self._next: Callable[[], bool] = self._chunk

    def readable(self) -> bool:
        """It is nothing else."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Bytes read; 0 once the part has ended and its digest holds."""
        while not self._left:
            if not self._next():
                return 0
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def skip(self) -> None:
        """Go to its end without looking at what is left."""
        self._left = self._left[:0]
        while self._next == self._chunk:
            self._taken()
        self._next()

    def _chunk(self) -> bool:
        chunk, place = self._taken()
        self._left, _ = self._unpacker.unpack(chunk, place, self._info.name)
        return True

    def _taken(self) -> tuple[Chunk, Place]:
        """The next chunk as it is stored, in the unpacker."""
        chunk, place = self._frames.chunk(self._info), Place(self._index, self._number)
        self._frames.data(self._unpacker.room(chunk.stored), self._info)
        self._number += 1
        if chunk.last:
            self._next = self._end
        return chunk, place

    def _end(self) -> bool:
        self._frames.part_end(self._info)
        self._next = self._over
        return False

    @staticmethod
    def _over() -> bool:
        return False
