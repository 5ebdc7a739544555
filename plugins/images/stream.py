"""Reading an archive's bytes: slices of a file, decompression as it goes, and a bound on all of it.

No call here holds more than a few hundred KiB of output, however well the input was compressed.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import os
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import zstandard

from hostler.contracts.images import UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.units import format_size

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Bytes asked of a source at once.
CHUNK = 1 << 18
#: Headers, padding and extended headers that an entry of a tar may take beside its data.
_ENTRY_ROOM = 2048
#: Working memory that an archive may demand of its decompressor (xz -9 and zstd --ultra need less).
_DECODER_MEMORY = 1 << 27

_TOO_LARGE_HINT = "make the image smaller, or have the provider raise its unpack limit"
_DAMAGED_HINT = "make or upload the archive again"


class Source(Protocol):
    """Bytes in order. ``read`` gives between 1 and ``size`` bytes, or none at the end."""

    def read(self, size: int, /) -> bytes: ...


class Budget:
    """What is left of :class:`UnpackLimits`, over all layers of an image."""

    def __init__(self, limits: UnpackLimits) -> None:
        self._limits = limits
        self._stream = limits.bytes + _ENTRY_ROOM * limits.entries
        self.bytes = 0
        self.entries = 0

    def take_bytes(self, count: int) -> None:
        """Count bytes of unpacked files."""
        self.bytes += count
        if self.bytes > self._limits.bytes:
            raise self._too_large()

    def take_entry(self) -> None:
        """Count one file, folder or link."""
        self.entries += 1
        if self.entries > self._limits.entries:
            raise Invalid(
                f"the archive holds more than {self._limits.entries} files and folders",
                hint=_TOO_LARGE_HINT,
                code="image_too_large",
            )

    def take_stream(self, count: int) -> None:
        """Count decompressed bytes of the archive itself, so that what is skipped is bounded as well."""
        self._stream -= count
        if self._stream < 0:
            raise self._too_large()

    def _too_large(self) -> Invalid:
        return Invalid(
            f"the archive unpacks to more than {format_size(self._limits.bytes)}",
            hint=_TOO_LARGE_HINT,
            code="image_too_large",
        )


def damaged(what: str) -> Invalid:
    """The error for an archive that is cut or broken."""
    return Invalid(f"the archive is damaged: {what}", hint=_DAMAGED_HINT, code="image_damaged")


class Slice:
    """A part of an open file. Its position is its own: slices of one descriptor do not disturb each other."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size
        self._at = 0

    @classmethod
    def whole(cls, fd: int) -> Slice:
        """All of a file."""
        return cls(fd, 0, os.fstat(fd).st_size)

    def read(self, size: int, /) -> bytes:
        data = os.pread(self.fd, max(0, min(size, self.size - self._at)), self.offset + self._at)
        self._at += len(data)
        return data

    def skip(self, count: int) -> bool:
        """Move on without reading. False, and nothing done, when the slice does not hold so much more."""
        if count > self.size - self._at:
            return False
        self._at += count
        return True

    def again(self) -> Slice:
        """The same slice from its start."""
        return Slice(self.fd, self.offset, self.size)


class Hashed:
    """A source whose bytes are hashed while they are read."""

    def __init__(self, source: Source, algorithm: str) -> None:
        self._source = source
        self._hash = hashlib.new(algorithm)

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    @property
    def hexdigest(self) -> str:
        """Digest of what was read so far."""
        return self._hash.hexdigest()


class _Decoder(Protocol):
    """What the standard library's bz2 and lzma decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib's decompressor in the shape of bz2's and lzma's."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max(0, max_length))


class _Decoded:
    """A source decompressed. Several members after each other are one stream, as gzip, xz and bzip2 have it."""

    def __init__(self, source: Source, make: Callable[[], _Decoder]) -> None:
        self._source = source
        self._make = make
        self._decoder: _Decoder | None = make()

    def read(self, size: int, /) -> bytes:
        while self._decoder is not None:
            decoder = self._decoder
            data = self._source.read(CHUNK) if decoder.needs_input else b""
            starved = decoder.needs_input and not data
            try:
                out = decoder.decompress(data, size)
            except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
                raise damaged(f"it does not decompress ({error})") from error
            if decoder.eof:
                self._decoder = self._next_member(decoder.unused_data)
            if out:
                return out
            if starved and not decoder.eof:
                raise damaged("its compressed data end too early")
        return b""

    def _next_member(self, rest: bytes) -> _Decoder | None:
        """The decoder of the member that begins with ``rest``, or None at the end. Zero bytes of padding may follow."""
        while not (rest := rest.lstrip(b"\0")):
            if not (rest := self._source.read(CHUNK)):
                return None
        self._source = _Prefixed(rest, self._source)
        return self._make()


class _Prefixed:
    """Bytes already read, then the rest of their source."""

    def __init__(self, prefix: bytes, source: Source) -> None:
        self._prefix = prefix
        self._source = source

    def read(self, size: int, /) -> bytes:
        if self._prefix:
            data, self._prefix = self._prefix[:size], self._prefix[size:]
            return data
        return self._source.read(size)


class _Zstd:
    """A zstd source decompressed."""

    def __init__(self, source: Source) -> None:
        decoder = zstandard.ZstdDecompressor(max_window_size=_DECODER_MEMORY)
        file = io.BufferedReader(_AsFile(source), CHUNK)
        self._reader = decoder.stream_reader(file, read_size=CHUNK, read_across_frames=True)

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as error:
            raise damaged(f"it does not decompress ({error})") from error


class _AsFile(io.RawIOBase):
    """A source as a file object, for zstandard."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        data = self._source.read(len(room))
        room[: len(data)] = data
        return len(data)


def compression(start: bytes) -> str:
    """``gzip``, ``xz``, ``bzip2``, ``zstd`` by a file's first six bytes; empty for anything else."""
    for magic, name in (
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ):
        if start.startswith(magic):
            return name
    return ""


def decompressed(part: Slice) -> Source:
    """The bytes of ``part``, decompressed when they are compressed in a form we know."""
    match compression(part.again().read(6)):
        case "gzip":
            return _Decoded(part, _Gunzip)
        case "xz":
            return _Decoded(part, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY))
        case "bzip2":
            return _Decoded(part, bz2.BZ2Decompressor)
        case "zstd":
            return _Zstd(part)
        case _:
            return part


class Stream:
    """A source read in exact pieces, forward only, counted against a budget."""

    def __init__(self, source: Source, budget: Budget) -> None:
        self._source = source
        self._budget = budget
        self._buffer = b""
        self._start = 0
        self.position = 0

    def take(self, size: int) -> bytes:
        """Between 1 and ``size`` bytes, or none at the end."""
        if self._start == len(self._buffer):
            self._buffer, self._start = self._source.read(CHUNK), 0
            self._budget.take_stream(len(self._buffer))
        data = self._buffer[self._start : self._start + size]
        self._start += len(data)
        self.position += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        """``size`` bytes (the caller bounds them), fewer only at the end of the source."""
        data = self.take(size)
        while len(data) < size and (more := self.take(size - len(data))):
            data += more
        return data

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes, without reading them where the source is a plain file."""
        buffered = min(size, len(self._buffer) - self._start)
        self._start += buffered
        self.position += buffered
        left = size - buffered
        if left and isinstance(self._source, Slice):
            if not self._source.skip(left):
                raise damaged("it ends in the middle of a file")
            self.position += left
            return
        while left:
            data = self.take(min(left, CHUNK))
            if not data:
                raise damaged("it ends in the middle of a file")
            left -= len(data)

    def drain(self) -> None:
        """Read to the end."""
        while self.take(CHUNK):
            pass
