"""The host ids that CRIU's images name. All else in them speaks of ids inside; ``userns-N.img`` alone says which host ids those are.

A container made from another's checkpoint has host ids of its own, so that image is written anew for it. Its format: two magic numbers and a
length, 32 bits each, little endian, then a protobuf message ``userns_entry`` of ``uid_map`` (1) and ``gid_map`` (2), each a list of extents
``first`` (1), ``lower_first`` (2), ``count`` (3); see images/userns.proto and criu/include/magic.h of https://criu.org.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from hostler.core.errors import Invalid
from hostler.core.specs import IdRange

_HEAD = struct.Struct("<III")
_MAGICS = (0x54564319, 0x55474906)
_VARINT, _MESSAGE = 0, 2
_MAPS = (1, 2)
_FIRST, _LOWER_FIRST, _COUNT = 1, 2, 3


def rehome(images: Path, ids: IdRange) -> None:
    """Make the processes of ``images`` have host ids ``ids`` when they are restored. Done already is a success; so are images
    without a user namespace. Raises :class:`Invalid` for a file that is none of CRIU's, or whose ids are not one range as ``ids`` is."""
    for file in images.glob("userns-*.img"):
        wanted = _image(ids)
        text = file.read_bytes()
        if text == wanted:
            continue
        _check(file, text, ids)
        draft = file.with_suffix(".draft")
        draft.write_bytes(wanted)
        os.replace(draft, file)


def _check(file: Path, text: bytes, ids: IdRange) -> None:
    wrong = Invalid(f"{file.name} is no image that ids can be changed in", hint="it was written by another version of CRIU: take the checkpoint anew")
    if len(text) < _HEAD.size or _HEAD.unpack_from(text)[:2] != _MAGICS or _HEAD.unpack_from(text)[2] != len(text) - _HEAD.size:
        raise wrong
    try:
        maps = [(field, dict(_fields(value))) for field, value in _fields(text[_HEAD.size :]) if isinstance(value, bytes)]
    except IndexError as error:
        raise wrong from error
    if [(field, extent.get(_FIRST), extent.get(_COUNT)) for field, extent in maps] != [(field, 0, ids.count) for field in _MAPS]:
        raise wrong


def _image(ids: IdRange) -> bytes:
    extent = b"".join(_tag(field, _VARINT) + _varint(value) for field, value in ((_FIRST, 0), (_LOWER_FIRST, ids.base), (_COUNT, ids.count)))
    message = b"".join(_tag(field, _MESSAGE) + _varint(len(extent)) + extent for field in _MAPS)
    return _HEAD.pack(*_MAGICS, len(message)) + message


def _tag(field: int, kind: int) -> bytes:
    return bytes([field << 3 | kind])


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(text: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message. Raises IndexError where the text ends in the middle."""
    at = 0
    while at < len(text):
        tag, at = _read(text, at)
        value, at = _read(text, at)
        if tag & 7 == _VARINT:
            yield tag >> 3, value
        elif tag & 7 == _MESSAGE and at + value <= len(text):
            yield tag >> 3, text[at : at + value]
            at += value
        else:
            raise IndexError(at)


def _read(text: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = text[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise IndexError(at)
