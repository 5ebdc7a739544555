"""Which of our formats an archive is, from its first entries."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from hostler.contracts.images import UnpackLimits
from hostler.core.errors import Invalid
from hostler.core.units import MIB
from hostler_plugins.images.stream import Budget, Slice, Stream, decompressed
from hostler_plugins.images.tar import Kind, entries

#: One of these folders (or links to them) is in the top of every root file system.
ROOT_FOLDERS = (b"bin", b"usr", b"sbin", b"etc", b"lib")

#: Looked at and no further: bytes to decompress, entries.
_LOOK = UnpackLimits(bytes=64 * MIB, entries=20_000)
_BLOB = re.compile(
    rb"blobs/(sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})|(sha256:)?[0-9a-f]{64}(\.json|\.tar|\.tar\.gz|/layer\.tar|/json|/VERSION)?"
)
_FRAME = re.compile(rb"blobs(/sha256|/sha512)?|[0-9a-f]{64}|oci-layout|index\.json|manifest\.json|repositories")


def sniff(archive: Path) -> Literal["oci", "rootfs", ""]:
    """``oci`` for an OCI layout or what ``docker save`` writes, ``rootfs`` for a tar of a root file system, or
    nothing for all else. Reads little, and raises :class:`OSError` only where the file cannot be read."""
    fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _look(Slice.whole(fd))
    finally:
        os.close(fd)


def _look(part: Slice) -> Literal["oci", "rootfs", ""]:
    names: set[bytes] = set()
    blob = alien = False
    try:
        for count, entry in enumerate(entries(Stream(decompressed(part), Budget(_LOOK)), end_required=False)):
            name = b"/".join(piece for piece in entry.name.split(b"/") if piece not in (b"", b"."))
            top, _, below = name.partition(b"/")
            if top in ROOT_FOLDERS and (below or entry.kind in (Kind.FOLDER, Kind.SYMLINK)):
                return "rootfs"
            is_blob = _BLOB.fullmatch(name) is not None
            alien = alien or not (is_blob or not name or _FRAME.fullmatch(name))
            blob = blob or is_blob
            names.add(name)
            if blob and not alien and (b"manifest.json" in names or {b"oci-layout", b"index.json"} <= names):
                return "oci"
            if count == _LOOK.entries:
                return ""
    except Invalid:
        # Cut, no tar at all, or so large a first blob that looking on would not be cheap.
        return "oci" if blob and not alien else ""
    return ""
