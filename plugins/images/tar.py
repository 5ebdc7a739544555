"""Reading a tar archive made by an enemy, one entry at a time, in constant memory.

Understood: v7, POSIX ustar and pax, GNU long names, base-256 numbers, and GNU sparse files in all four forms.
The formats: POSIX.1-2017 ``pax`` (ustar and extended headers), and "Standard Format" and "Storing Sparse Files"
in the GNU tar manual.

Why not the standard library's tarfile: in the Pythons of the distributions we run on it takes a broken header in
the middle for the end of the archive, reads extended headers of any size into memory and through a
quadratic regular expression, recurses on them, follows negative sizes backwards, and keeps every entry it saw.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from hostler.core.errors import Invalid
from hostler_plugins.images.stream import Stream, damaged

_BLOCK = 512
#: Bytes of extended headers, long names and sparse maps of one entry. Linux takes no path over 4 KiB, no attribute over 64.
_HEADERS = 1 << 20
#: Extended headers in front of one entry: long name, long link, pax, global pax, and some to spare.
_HEADER_CHAIN = 8
_SPARSE_KEYS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_ZERO = bytes(_BLOCK)
_SECOND = 1_000_000_000
#: What file systems can store as a time, in seconds (ext4: 34 bits and a sign).
_TIMES = (-(2**31), 2**34)


class Kind(StrEnum):
    """What an entry makes."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    FIFO = "fifo"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"


_KINDS = {
    b"\0": Kind.FILE,
    b"0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.FOLDER,
    b"6": Kind.FIFO,
}


@dataclass(slots=True)
class Entry:
    """One entry. Names are bytes as stored, and not to be trusted. Times are nanoseconds since 1970."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    link: bytes = b""
    size: int = 0
    """Of the file, holes included."""
    stored: int = 0
    """Bytes of data in the archive."""
    offset: int = 0
    """Where the data begin in the (decompressed) archive."""
    segments: list[tuple[int, int]] | None = None
    """Of a sparse file: offset and length of what is not a hole, ascending, within ``size``; the data in this order."""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def shown(name: bytes) -> str:
    """A name from an archive as it can be printed in a message."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return repr(text if len(text) <= 120 else text[:100] + "…" + text[-19:])


def entries(stream: Stream, *, end_required: bool = True) -> Iterator[Entry]:
    """The entries in order.

    Between two the caller may take up to ``stored`` bytes from the stream; the rest is skipped. Raises
    :class:`Invalid` for an archive that is damaged, or, with ``end_required``, that lacks its end marker.
    """
    shared = _Extended()
    while (entry := _next_entry(stream, shared, end_required)) is not None:
        after = entry.offset + entry.stored + -entry.stored % _BLOCK
        yield entry
        if stream.position > entry.offset + entry.stored:
            raise AssertionError("more was taken than the entry holds")
        stream.skip(after - stream.position)


@dataclass
class _Extended:
    """What extended headers say of the entry that follows."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[bytes] = field(default_factory=list)
    """Offsets and lengths in turn: the one key that repeats with a meaning."""
    name: bytes | None = None
    link: bytes | None = None

    def value(self, key: bytes) -> bytes | None:
        """The last value of a key; an empty one means that there is none."""
        return self.records.get(key) or None


def _next_entry(stream: Stream, shared: _Extended, end_required: bool) -> Entry | None:
    extended = _Extended()
    room = _HEADERS
    for _ in range(_HEADER_CHAIN):
        header = stream.exactly(_BLOCK)
        if header == _ZERO:
            return None
        if not header and not end_required:
            return None
        if len(header) < _BLOCK:
            raise damaged("it ends before its end marker: it was cut off")
        _check_sum(header)
        kind = header[156:157]
        if kind not in (b"x", b"X", b"g", b"L", b"K"):
            return _entry(stream, header, extended, shared, room)
        size = _number(header[124:136], "size")
        room -= size
        if room < 0:
            raise Invalid(
                "the archive holds an extended header of more than 1 MiB",
                hint="no file system takes such names or attributes; make the archive again",
            )
        body = stream.exactly(size)
        if len(body) < size:
            raise damaged("it ends in the middle of a header")
        stream.skip(-size % _BLOCK)
        _extend(kind, body, extended, shared)
    raise damaged("too many extended headers follow each other")


def _extend(kind: bytes, body: bytes, extended: _Extended, shared: _Extended) -> None:
    if kind == b"L":
        extended.name = body.split(b"\0", 1)[0]
    elif kind == b"K":
        extended.link = body.split(b"\0", 1)[0]
    elif kind == b"g":
        # Of a global header only what can be true of all entries; names, sizes and attributes cannot.
        known = dict(_records(body))
        shared.records |= {key: known[key] for key in (b"uid", b"gid", b"mtime") if key in known}
    else:
        records = _records(body)
        extended.records |= dict(records)
        extended.sparse += [value for key, value in records if key in _SPARSE_KEYS]


def _check_sum(header: bytes) -> None:
    stated = _number(header[148:156], "checksum")
    unsigned = sum(header) - sum(header[148:156]) + 8 * 32
    if stated == unsigned:
        return
    # Some old programs added the bytes up as signed ones.
    signed = sum(struct.unpack("148b8x356b", header)) + 8 * 32
    if stated != signed:
        raise damaged("a header's checksum is wrong, or this is no tar archive")


def _number(text: bytes, what: str, *, signed: bool = False) -> int:
    """A number field: octal text, or base-256 when its first bit is set."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big", signed=False) & ~(0x80 << 8 * (len(text) - 1))
        if text[0] & 0x40:
            value -= 1 << (8 * len(text) - 1)
        if value < 0 and not signed:
            raise damaged(f"a negative {what}")
        return value
    digits = text.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise damaged(f"a {what} that is no number")
    return int(digits, 8)


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise damaged(f"a {what} that is no number")
    return int(text)


def _records(body: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a pax header: ``length key=value newline``, the length counting all of it, in decimal."""
    records = []
    at = 0
    while at < len(body) and body[at]:
        space = body.find(b" ", at, at + 12)
        if space < 0:
            raise damaged("an extended header is malformed")
        end = at + _decimal(body[at:space], "length")
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= space + 1 or body[end - 1 : end] != b"\n" or not equals or not key:
            raise damaged("an extended header is malformed")
        records.append((key, value))
        at = end
    return records


def _field(text: bytes) -> bytes:
    return text.split(b"\0", 1)[0]


def _header_name(header: bytes) -> bytes:
    name = _field(header[:100])
    if header[257:263] == b"ustar\0" and header[345] != 0:
        return _field(header[345:500]) + b"/" + name
    return name


def _entry(stream: Stream, header: bytes, extended: _Extended, shared: _Extended, room: int) -> Entry:
    name = extended.value(b"GNU.sparse.name") or extended.value(b"path") or extended.name or _header_name(header)
    kind = _KINDS.get(header[156:157])
    if kind is None:
        raise Invalid(
            f"{shown(name)} in the archive is of an unknown type {shown(header[156:157])}",
            hint="make the archive with tar, as a full archive and in one volume",
        )
    size = _own_or_header(extended, b"size", header[124:136])
    if kind is Kind.FILE and header[156:157] != b"S" and name.endswith(b"/") and size == 0:
        kind = Kind.FOLDER
    entry = Entry(
        name=name,
        kind=kind,
        mode=_number(header[100:108], "mode") & 0o7777,
        uid=_own_or_header(extended, b"uid", header[108:116], shared),
        gid=_own_or_header(extended, b"gid", header[116:124], shared),
        mtime=_mtime(extended.value(b"mtime") or shared.value(b"mtime"), header[136:148]),
        link=extended.value(b"linkpath") or extended.link or _field(header[157:257]),
        xattrs=_xattrs(extended),
        offset=stream.position,
    )
    if kind is Kind.FILE:
        entry.size = entry.stored = size
        _sparse(stream, header, extended, entry, room)
    return entry


def _own_or_header(extended: _Extended, key: bytes, text: bytes, shared: _Extended | None = None) -> int:
    own = extended.value(key) or (shared.value(key) if shared else None)
    return _number(text, key.decode()) if own is None else _decimal(own, key.decode())


def _mtime(own: bytes | None, text: bytes) -> int:
    if own is None:
        time = _number(text, "time", signed=True) * _SECOND
    else:
        whole, _, fraction = own.partition(b".")
        digits = whole.removeprefix(b"-")
        nanoseconds = _decimal((fraction + b"000000000")[:9], "time")
        time = _decimal(digits, "time") * _SECOND + nanoseconds
        time = -time if whole.startswith(b"-") else time
    return max(_TIMES[0] * _SECOND, min(time, _TIMES[1] * _SECOND))


def _xattrs(extended: _Extended) -> dict[bytes, bytes]:
    prefix = b"SCHILY.xattr."
    return {key.removeprefix(prefix): value for key, value in extended.records.items() if key.startswith(prefix)}


# --- sparse files ---


def _sparse(stream: Stream, header: bytes, extended: _Extended, entry: Entry, room: int) -> None:
    """Fill in ``segments``, ``size`` and ``stored`` when the entry is a sparse file."""
    size = extended.value(b"GNU.sparse.realsize") or extended.value(b"GNU.sparse.size")
    if header[156:157] == b"S":
        numbers = _sparse_gnu(stream, header, room)
        entry.size = _number(header[483:495], "size")
    elif extended.value(b"GNU.sparse.major") == b"1":
        numbers = _sparse_1_0(stream, entry, room)
    elif (text := extended.value(b"GNU.sparse.map")) is not None:
        numbers = [_decimal(item, "sparse map") for item in text.split(b",")]
    elif size is not None:
        numbers = [_decimal(item, "sparse map") for item in extended.sparse]
    else:
        return
    if size is not None:
        entry.size = _decimal(size, "size")
    entry.offset = stream.position
    entry.segments = _segments(numbers, entry)


def _segments(numbers: list[int], entry: Entry) -> list[tuple[int, int]]:
    """Pairs of offset and length, checked against the entry's sizes."""
    segments = list(zip(numbers[::2], numbers[1::2], strict=False))
    at = data = 0
    for offset, length in segments:
        if offset < at:
            raise damaged(f"the sparse map of {shown(entry.name)} is not in order")
        at = offset + length
        data += length
    if len(numbers) % 2 or at > entry.size or data > entry.stored:
        raise damaged(f"the sparse map of {shown(entry.name)} does not fit the file")
    return segments


def _sparse_gnu(stream: Stream, header: bytes, room: int) -> list[int]:
    numbers: list[int] = []
    block, start, count, more = header, 386, 4, header[482]
    while True:
        for at in range(start, start + 24 * count, 12):
            if block[at] == 0:
                break
            numbers.append(_number(block[at : at + 12], "sparse map"))
        if not more:
            return numbers
        room -= _BLOCK
        block = stream.exactly(_BLOCK)
        if len(block) < _BLOCK or room < 0:
            raise damaged("a sparse map that does not end")
        start, count, more = 0, 21, block[504]


def _sparse_1_0(stream: Stream, entry: Entry, room: int) -> list[int]:
    """The map stands in front of the data, a decimal number a line: how many pairs, then the pairs; padded to a block."""
    blocks: list[bytes] = []
    lines, wanted = 0, None
    while wanted is None or lines <= wanted:
        room -= _BLOCK
        block = stream.exactly(_BLOCK)
        entry.stored -= _BLOCK
        if len(block) < _BLOCK or room < 0 or entry.stored < 0 or b"\n" not in block:
            raise damaged("a sparse map that does not end")
        blocks.append(block)
        lines += block.count(b"\n")
        if wanted is None:
            wanted = 2 * _decimal(block.split(b"\n", 1)[0], "sparse map")
    return [_decimal(line, "sparse map") for line in b"".join(blocks).split(b"\n")[1 : wanted + 1]]
