"""The envelope of a volume's stream: what it is, its data in frames, and a digest of all, so that one that was cut or
changed is told from a whole one.

``hostler-volume 1\\n``; a length (4 bytes, little endian) and that many bytes of JSON, :class:`Header`; frames of the same
form, at most 1 MiB each; a length of 0; 32 bytes of SHA-256 over everything before. Nothing past that is read.
"""

from __future__ import annotations

import hashlib
import struct
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hostler.core.errors import Invalid

_MAGIC = b"hostler-volume 1\n"
_LENGTH = struct.Struct("<I")
_FRAME = 1 << 20
_HEADER = 1 << 16


class Header(BaseModel):
    """What a stream holds. ``identity`` tells a snapshot from any other that was given the same id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    driver: str = Field(max_length=64)
    snapshot: str = Field(max_length=64)
    identity: str = Field(min_length=1, max_length=64)
    created_at: float = Field(ge=0, le=1e11, allow_inf_nan=False)
    since: str | None = Field(default=None, min_length=1, max_length=64)
    """Identity of the snapshot that this is the difference to."""
    image: str | None = Field(default=None, max_length=64)
    """Id of the image that the volume was made from: its files may be found on the receiving server too."""
    size: int = Field(default=0, ge=0, le=2**62)
    """Bytes of the file system, where that is in a file; of them ``own`` bytes are taken by an empty one."""
    own: int = Field(default=0, ge=0, le=2**62)


def damaged(why: str) -> Invalid:
    """A stream that cannot be taken."""
    return Invalid(f"the volume's stream is damaged: {why}", hint="send it again; nothing was changed", code="bad_stream")


class FrameWriter:
    """Writes a stream to ``out``; :meth:`close` makes it whole."""

    def __init__(self, out: BinaryIO, header: Header) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self._put(_MAGIC)
        self._frame(header.model_dump_json(exclude_none=True).encode())

    def write(self, data: bytes | memoryview) -> None:
        """Add data of any length."""
        view = memoryview(data)
        for at in range(0, len(view), _FRAME):
            self._frame(view[at : at + _FRAME])

    def close(self) -> None:
        """Write the end and the digest."""
        self._put(_LENGTH.pack(0))
        self._out.write(self._digest.digest())
        self._out.flush()

    def _frame(self, data: bytes | memoryview) -> None:
        self._put(_LENGTH.pack(len(data)))
        self._put(data)

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._out.write(data)


class FrameReader:
    """Reads a stream. Everything raises :class:`Invalid` for one that is cut, changed, or of another kind."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self._frame = memoryview(b"")
        self._ended = False
        if self._take(len(_MAGIC)) != _MAGIC:
            raise damaged("it is no stream of a volume, or of another version")
        length = self._length()
        if not 0 < length <= _HEADER:
            raise damaged("its header is too long")
        try:
            self.header = Header.model_validate_json(self._take(length))
        except ValidationError as error:
            raise damaged("its header cannot be understood") from error

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes of data."""
        parts, wanted = [], length
        while wanted:
            if not self._next():
                raise damaged("it ends too early")
            part, self._frame = self._frame[:wanted], self._frame[wanted:]
            wanted -= len(part)
            parts.append(part)
        return b"".join(parts)

    def some(self) -> memoryview:
        """Whatever data comes next; empty at the end."""
        if not self._next():
            return memoryview(b"")
        part, self._frame = self._frame, memoryview(b"")
        return part

    def finish(self) -> None:
        """To be called when all data is read: nothing more may come, and the digest must be right."""
        if self._next():
            raise damaged("it goes on after its end")
        expected = self._digest.digest()
        if self._take(len(expected)) != expected:
            raise damaged("its digest is wrong")

    def _next(self) -> bool:
        """See to it that there is data in the frame; False at the end."""
        while not self._frame and not self._ended:
            length = self._length()
            if length > _FRAME:
                raise damaged("a frame is too long")
            self._ended = length == 0
            self._frame = memoryview(self._take(length))
        return bool(self._frame)

    def _length(self) -> int:
        return int(_LENGTH.unpack(self._take(_LENGTH.size))[0])

    def _take(self, length: int) -> bytes:
        parts, wanted = [], length
        while wanted:
            part = self._source.read(wanted)
            if not part:
                raise damaged("it ends too early")
            parts.append(part)
            wanted -= len(part)
        data = b"".join(parts)
        self._digest.update(data)
        return data
