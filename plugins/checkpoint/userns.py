"""The host ids that CRIU's images name. All else in them speaks of ids inside; ``userns-N.img`` alone says which host ids those are.

A container made from another's checkpoint has host ids of its own, so that image is written anew for it. Its format: two magic numbers and a
length, 32 bits each, little endian, then a protobuf message ``userns_entry`` of ``uid_map`` (1) and ``gid_map`` (2), each a list of extents
``first`` (1), ``lower_first`` (2), ``count`` (3); see images/userns.proto and criu/include/magic.h of https://criu.org.
"""

from __future__ import annotations

import os
from pathlib import Path

from hostler.core.errors import Invalid
from hostler.core.specs import IdRange
from hostler_plugins.checkpoint.images import read_entries, write_entries
from hostler_plugins.checkpoint.protobuf import encode, number, parse, text

_MAGIC = 0x55474906
_MAPS = (1, 2)
_FIRST, _LOWER_FIRST, _COUNT = 1, 2, 3


def rehome(images: Path, ids: IdRange) -> None:
    """Make the processes of ``images`` have host ids ``ids`` when they are restored. Done already is a success; so are images
    without a user namespace. Raises :class:`Invalid` for a file that is none of CRIU's, or whose ids are not one range as ``ids`` is."""
    for file in images.glob("userns-*.img"):
        wanted = _image(ids)
        written = file.read_bytes()
        if written == wanted:
            continue
        _check(file, written, ids)
        draft = file.with_suffix(".draft")
        draft.write_bytes(wanted)
        os.replace(draft, file)


def _check(file: Path, written: bytes, ids: IdRange) -> None:
    try:
        (entry,) = read_entries(written, _MAGIC)
        maps = [(field.number, {part.number: part.integer for part in parse(field.message)}) for field in parse(entry)]
    except ValueError as error:  # Malformed, or not one entry
        raise _wrong(file) from error
    if [(field, extent.get(_FIRST), extent.get(_COUNT)) for field, extent in maps] != [(field, 0, ids.count) for field in _MAPS]:
        raise _wrong(file)


def _wrong(file: Path) -> Invalid:
    return Invalid(f"{file.name} is no image that ids can be changed in", hint="it was written by another version of CRIU: take the checkpoint anew")


def _image(ids: IdRange) -> bytes:
    extent = encode([number(_FIRST, 0), number(_LOWER_FIRST, ids.base), number(_COUNT, ids.count)])
    return write_entries([encode(text(field, extent) for field in _MAPS)], _MAGIC)
