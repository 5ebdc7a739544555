"""The commands of a btrfs send stream, version 1, taken apart; doing them is :mod:`hostler_plugins.storage.sendapply`.

https://btrfs.readthedocs.io/en/latest/dev/dev-send-stream.html. The checksums of single commands are not looked at: the
envelope has one over all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from hostler_plugins.storage.frames import damaged

_MAGIC = b"btrfs-stream\0"
_COMMAND = struct.Struct("<IHI")
_ATTRIBUTE = struct.Struct("<HH")
#: A command of version 1 is at most 64 KiB.
_LONGEST = 1 << 16
_PATH_MAX = 4096
_BIGGEST = 2**63 - 1


class Kind(IntEnum):
    """Commands of version 1."""

    SUBVOLUME = 1
    SNAPSHOT = 2
    FILE = 3
    FOLDER = 4
    NODE = 5
    FIFO = 6
    SOCKET = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    RMDIR = 12
    SET_XATTR = 13
    REMOVE_XATTR = 14
    WRITE = 15
    CLONE = 16
    TRUNCATE = 17
    CHMOD = 18
    CHOWN = 19
    TIMES = 20
    END = 21
    UPDATE_EXTENT = 22


class Field(IntEnum):
    """What a command says. Numbers are little endian."""

    UUID = 1
    SIZE = 4
    MODE = 5
    UID = 6
    GID = 7
    RDEV = 8
    MTIME = 10
    ATIME = 11
    XATTR_NAME = 13
    XATTR_DATA = 14
    PATH = 15
    PATH_TO = 16
    PATH_LINK = 17
    OFFSET = 18
    DATA = 19
    CLONE_UUID = 20
    CLONE_PATH = 22
    CLONE_OFFSET = 23
    CLONE_LENGTH = 24


@dataclass(frozen=True)
class Command:
    """One command. Its accessors raise :class:`Invalid` for what is missing or makes no sense."""

    kind: Kind
    fields: dict[int, bytes]

    def data(self, field: Field) -> bytes:
        """A field's bytes."""
        try:
            return self.fields[field]
        except KeyError:
            raise damaged(f"a command {self.kind.name.lower()} lacks its {field.name.lower()}") from None

    def number(self, field: Field) -> int:
        """A number that fits a signed one of 64 bits, which is all that the kernel takes."""
        data = self.data(field)
        value = int.from_bytes(data, "little")
        if len(data) != 8 or value > _BIGGEST:
            raise damaged(f"{field.name.lower()} is no sensible number")
        return value

    def nanoseconds(self, field: Field) -> int:
        """A time since 1970."""
        data = self.data(field)
        if len(data) != 12:
            raise damaged("a time is no time")
        seconds, rest = struct.unpack("<qI", data)
        if not -(2**33) < seconds < 2**34 or rest >= 10**9:
            raise damaged("a time is out of range")
        return int(seconds) * 10**9 + int(rest)

    def path(self, field: Field = Field.PATH) -> bytes:
        """A path within the subvolume, empty for its root. Never absolute, never with ``.`` or ``..`` in it."""
        path = self.data(field)
        parts = path.split(b"/") if path else []
        if len(path) > _PATH_MAX or b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
            raise damaged(f"it names the path {path[:80]!r}")
        return path


def commands(read: Callable[[int], bytes]) -> Iterator[Command]:
    """All commands up to and with the end. ``read`` gives exactly so many bytes or raises."""
    if read(len(_MAGIC)) != _MAGIC or read(4) != b"\1\0\0\0":
        raise damaged("it is no btrfs stream of version 1")
    while True:
        length, number, _ = _COMMAND.unpack(read(_COMMAND.size))
        if length > _LONGEST:
            raise damaged("a command is too long")
        command = Command(_kind(number), _fields(read(length)))
        yield command
        if command.kind is Kind.END:
            return


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise damaged(f"there is no command {number} in version 1") from None


def _fields(data: bytes) -> dict[int, bytes]:
    fields, at = {}, 0
    while at < len(data):
        if at + _ATTRIBUTE.size > len(data):
            raise damaged("a command is cut")
        number, length = _ATTRIBUTE.unpack_from(data, at)
        at += _ATTRIBUTE.size
        if at + length > len(data):
            raise damaged("a field is cut")
        fields[number] = data[at : at + length]
        at += length
    return fields
