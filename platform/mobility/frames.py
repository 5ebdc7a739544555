"""The checkpoint stream's frames, as bytes. Numbers are big-endian and unsigned; a digest is SHA-256.

::

    stream    prefix  part*  trailer
    prefix    magic "HSTLRCKP", version u16, length u32, the manifest in JSON, digest of all these
    part      part header  chunk+  part end                      one for each part of the manifest, in its order
    part header   "P", index u32, length u16, {"kind":…,"name":…,"size":…} as the manifest has it
    chunk     "C", flags u8, original length u32, stored length u32, digest of the stored bytes; the stored bytes
    part end  "E", original length u64, digest of the part's header and its chunks' headers
    trailer   "T", number of parts u32, stored bytes u64, digest of everything before but the stored bytes; "HSTLREND"

Flags of a chunk: 1 the part's last, 2 compressed, 4 nothing but zeros and not stored. Each chunk but the last has as many
original bytes as the manifest's filters say; no chunk is stored in more bytes than it has, but for the cipher's tag.

Digests of headers that hold digests cover every bit of the stream, can be checked by jumping from header to header, and
leave the bulk of the hashing to as many processors as there are.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from hostler.core.errors import Invalid
from hostler.mobility.manifest import MANIFEST_LIMIT, Manifest, PartInfo, decode

MAGIC: Final = b"HSTLRCKP"
END: Final = b"HSTLREND"
VERSION: Final = 1
TAG_BYTES: Final = 16
LAST, COMPRESSED, ZEROS = 1, 2, 4

_PREFIX = struct.Struct(">8sHI")
_PART = struct.Struct(">cIH")
_CHUNK = struct.Struct(">cBII32s")
_LABEL = struct.Struct(">cBI")
_PART_END = struct.Struct(">cQ32s")
_TRAILER = struct.Struct(">cIQ32s8s")
_DIGEST: Final = 32

AGAIN: Final = "export it again from the server that made it"


def damaged(what: str) -> Invalid:
    """The error of every stream that is not what its writer wrote."""
    return Invalid(f"the checkpoint is damaged: {what}", hint=AGAIN)


class Source(Protocol):
    """What a stream is read from: a file, a socket's file, a pipe."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Target(Protocol):
    """What a stream is written to; a raw one may take less than it is given."""

    def write(self, data: bytes | memoryview, /) -> int | None: ...


def fill(source: Source, view: memoryview) -> int:
    """Read until ``view`` is full or the source has ended; the bytes that were there."""
    done = 0
    while done < len(view):
        count = source.readinto(view[done:])
        if count is None:
            raise BlockingIOError("a checkpoint stream needs a blocking source")
        if count == 0:
            break
        done += count
    return done


def put(target: Target, data: bytes | memoryview) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        count = target.write(view)
        if count is None:
            raise BlockingIOError("a checkpoint stream needs a blocking target")
        view = view[count:]


@dataclass(frozen=True)
class Chunk:
    """A chunk's header."""

    flags: int
    original: int
    stored: int
    digest: bytes

    @property
    def last(self) -> bool:
        return bool(self.flags & LAST)


def label(flags: int, original: int) -> bytes:
    """What a chunk's encryption authenticates besides its data."""
    return _LABEL.pack(b"C", flags, original)


def _part_header(index: int, info: PartInfo) -> bytes:
    text = json.dumps({"kind": info.kind.value, "name": info.name, "size": info.size}, separators=(",", ":")).encode()
    return _PART.pack(b"P", index, len(text)) + text


@dataclass
class Count:
    """What passed so far: bytes of a part's original, and stored ones."""

    original: int = 0
    stored: int = 0


class FrameWriter:
    """Writes frames, in the order that the caller keeps, and their digests."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._all = hashlib.sha256()
        self._part = hashlib.sha256()
        self._of_part = Count()
        self.total = Count()

    def _put(self, header: bytes) -> None:
        self._all.update(header)
        put(self._target, header)

    def prefix(self, text: bytes) -> bytes:
        """Returns the manifest's digest."""
        start = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
        digest = hashlib.sha256(start).digest()
        self._put(start + digest)
        return digest

    def part(self, index: int, info: PartInfo) -> None:
        header = _part_header(index, info)
        self._part = hashlib.sha256(header)
        self._of_part = Count()
        self._put(header)

    def chunk(self, chunk: Chunk, data: bytes | memoryview) -> None:
        header = _CHUNK.pack(b"C", chunk.flags, chunk.original, chunk.stored, chunk.digest)
        self._part.update(header)
        self._of_part.original += chunk.original
        self.total.original += chunk.original
        self.total.stored += chunk.stored
        self._put(header)
        put(self._target, data)

    def part_end(self) -> int:
        """Returns the bytes of the part's original."""
        self._put(_PART_END.pack(b"E", self._of_part.original, self._part.digest()))
        return self._of_part.original

    def trailer(self, parts: int) -> bytes:
        """Returns the digest of everything, the checkpoint's identity."""
        start = struct.pack(">cIQ", b"T", parts, self.total.stored)
        self._all.update(start)
        put(self._target, start + self._all.digest() + END)
        return self._all.digest()


class FrameReader:
    """Reads frames and checks all that can be checked of them without their data; everything wrong is :class:`Invalid`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._all = hashlib.sha256()
        self._part = hashlib.sha256()
        self._of_part = Count()
        self._chunk_size = 0
        self._tag = 0
        self.total = Count()

    def _exactly(self, length: int, what: str) -> bytes:
        """``length`` is bounded by the format wherever it was read from the stream."""
        content = bytearray(length)
        if fill(self._source, memoryview(content)) < length:
            raise damaged(f"it ends inside {what}")
        return bytes(content)

    def prefix(self) -> tuple[Manifest, bytes]:
        """The manifest and its digest."""
        start = self._exactly(_PREFIX.size, "its first bytes")
        magic, version, length = _PREFIX.unpack(start)
        if magic != MAGIC:
            raise Invalid("this is no checkpoint of Hostler", hint="name a file that `hostler checkpoint export` wrote")
        if version != VERSION:
            raise Invalid(f"the checkpoint has format {version}; this Hostler reads format {VERSION}", hint="use the version of Hostler that wrote it")
        if length > MANIFEST_LIMIT:
            raise Invalid(f"the checkpoint's manifest claims {length} bytes; {MANIFEST_LIMIT} are allowed", hint=AGAIN)
        text = self._exactly(length, "its manifest")
        digest = self._exactly(_DIGEST, "its manifest")
        if hashlib.sha256(start + text).digest() != digest:
            raise damaged("its manifest does not match the manifest's digest")
        manifest = decode(text)
        self._all.update(start + text + digest)
        self._chunk_size = manifest.filters.chunk
        self._tag = TAG_BYTES if manifest.filters.encryption else 0
        return manifest, digest

    def part(self, index: int, expected: PartInfo) -> None:
        """The header of the part that the manifest has at ``index``: the only one that can come."""
        wanted = _part_header(index, expected)
        if self._exactly(len(wanted), f"part {expected.name}") != wanted:
            raise damaged(f"where part {expected.name} should begin is something else")
        self._part = hashlib.sha256(wanted)
        self._of_part = Count()
        self._all.update(wanted)

    def chunk(self, info: PartInfo) -> Chunk:
        header = self._exactly(_CHUNK.size, f"part {info.name}")
        tag, flags, original, stored, digest = _CHUNK.unpack(header)
        chunk = Chunk(flags, original, stored, digest)
        if tag != b"C" or flags > 7 or not self._possible(chunk):
            raise damaged(f"part {info.name} has an impossible chunk")
        self._part.update(header)
        self._all.update(header)
        self._of_part.original += original
        self.total.original += original
        self.total.stored += stored
        if info.size is not None and self._of_part.original > info.size:
            raise damaged(f"part {info.name} is longer than the manifest says")
        return chunk

    def _possible(self, chunk: Chunk) -> bool:
        size, tag = self._chunk_size, self._tag
        if chunk.original > size or (chunk.original < size and not chunk.last):
            return False
        if chunk.flags & ZEROS:
            return chunk.stored == tag and chunk.original > 0 and not chunk.flags & COMPRESSED
        if chunk.flags & COMPRESSED:
            return tag < chunk.stored < chunk.original + tag
        return chunk.stored == chunk.original + tag

    def data(self, view: memoryview, info: PartInfo) -> None:
        """The stored bytes of the chunk whose header was read last."""
        if fill(self._source, view) < len(view):
            raise damaged(f"it ends inside part {info.name}")

    def part_end(self, info: PartInfo) -> int:
        """Returns the bytes of the part's original."""
        end = self._exactly(_PART_END.size, f"part {info.name}")
        tag, told, digest = _PART_END.unpack(end)
        size = self._of_part.original
        if tag != b"E" or told != size or digest != self._part.digest():
            raise damaged(f"part {info.name} does not match its digest")
        if info.size not in (None, size):
            raise damaged(f"part {info.name} has {size} bytes; the manifest says {info.size}")
        self._all.update(end)
        return size

    def trailer(self, parts: int) -> bytes:
        """Returns the digest of everything."""
        end = self._exactly(_TRAILER.size, "its trailer")
        tag, told, stored, digest, magic = _TRAILER.unpack(end)
        self._all.update(end[: -_DIGEST - len(END)])
        if (tag, told, stored, digest, magic) != (b"T", parts, self.total.stored, self._all.digest(), END):
            raise damaged("its trailer does not match what came before")
        return self._all.digest()

    def ended(self) -> None:
        """Nothing may follow; of files only, as a wire may carry more."""
        if fill(self._source, memoryview(bytearray(1))):
            raise damaged("something follows its end")

