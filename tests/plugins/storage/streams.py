"""Streams made by hand, as an enemy would; and real ones, spoilt."""

from __future__ import annotations

import hashlib
import io
import struct

from hostler_plugins.storage.frames import FrameWriter, Header
from hostler_plugins.storage.sendstream import Field, Kind

OWN = b"o" * 16


def number(value: int) -> bytes:
    """As streams write it."""
    return value.to_bytes(8, "little")


def command(kind: int, **fields: bytes) -> bytes:
    """One command; fields by the names of :class:`Field`, in lower case."""
    body = b"".join(struct.pack("<HH", Field[name.upper()], len(data)) + data for name, data in fields.items())
    return struct.pack("<IHI", len(body), kind, 0) + body


def btrfs_stream(*commands: bytes) -> bytes:
    """A whole stream of a new subvolume."""
    begin = command(Kind.SUBVOLUME, path=b"x", uuid=OWN)
    return b"btrfs-stream\0\1\0\0\0" + begin + b"".join(commands) + command(Kind.END)


def envelope(payload: bytes, **changes: object) -> bytes:
    """The payload with a header and a right digest."""
    out = io.BytesIO()
    fields: dict[str, object] = {"driver": "btrfs", "snapshot": "s1", "identity": "i1", "created_at": 1.0}
    writer = FrameWriter(out, Header.model_validate(fields | changes))
    writer.write(payload)
    writer.close()
    return out.getvalue()


def resealed(data: bytes) -> bytes:
    """A changed stream with a digest that is right again."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()
