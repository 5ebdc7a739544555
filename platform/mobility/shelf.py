"""The checkpoints of a server: a folder with one file each, ``<id>.checkpoint``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.core.errors import Conflict, HostlerError, Invalid, NoRoom, NotFound
from hostler.core.names import check_id
from hostler.core.units import format_size
from hostler.mobility import drafts
from hostler.mobility.drafts import file_draft, told_of
from hostler.mobility.frames import END, Source, damaged, fill, put
from hostler.mobility.keys import Key
from hostler.mobility.manifest import Cipher, Manifest
from hostler.mobility.reading import Inspection, inspect, read_manifest, verify
from hostler.mobility.writing import Disk, PartSource, Progress, Summary, write

SUFFIX: Final = ".checkpoint"
_FILE = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\.checkpoint")
#: Bytes taken from a wire at once.
_PIECE: Final = 1 << 20
#: Left free for all else that lives on the file system, in bytes.
RESERVE: Final = 64 << 20


@dataclass(frozen=True)
class Shelved:
    """A file on the shelf. Either ``manifest`` is there, or ``reason`` says what is wrong with the file. ``size`` is in bytes."""

    id: str
    path: Path
    size: int
    manifest: Manifest | None
    reason: str = ""


class Shelf:
    """Checkpoints in ``folder``, which is root's own (mode 0700) and made when it is missing. Safe to use from many threads."""

    def __init__(self, folder: Path, *, reserve: int = RESERVE) -> None:
        self.folder = folder
        self._reserve = reserve
        with told_of(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path_of(self, checkpoint: str) -> Path:
        """Where a checkpoint's file is or would be. Raises :class:`Invalid` for what is no id."""
        return self.folder / f"{check_id(checkpoint)}{SUFFIX}"

    def write(
        self, manifest: Manifest, parts: Iterable[PartSource], *, key: Key | None = None, level: int = 1,
        cipher: Cipher = Cipher.AES_256_GCM, progress: Progress | None = None,
    ) -> Summary:
        """As :func:`hostler.mobility.writing.write`, under the manifest's id. Whoever needs room asks :meth:`check_room` first."""
        return write(self.path_of(manifest.id), manifest, parts, key=key, level=level, cipher=cipher, progress=progress)

    def manifest(self, checkpoint: str, key: Key | None = None) -> Manifest:
        """Raises :class:`NotFound`, and :class:`Invalid` for a damaged file or one of another checkpoint."""
        found = read_manifest(self._existing(checkpoint), key)
        return _named(found, checkpoint)

    def inspect(self, checkpoint: str) -> Inspection:
        """Raises as :meth:`manifest`."""
        found = inspect(self._existing(checkpoint))
        _named(found.manifest, checkpoint)
        return found

    def _existing(self, checkpoint: str) -> Path:
        path = self.path_of(checkpoint)
        if not path.is_file():
            raise NotFound(f"there is no checkpoint {checkpoint} on this server", hint="see `hostler checkpoint ls`")
        return path

    def entries(self) -> list[Shelved]:
        """All checkpoints, by id. Manifests and ends are read, not the parts: a flipped bit in a part is for :func:`verify`."""
        with told_of(self.folder):
            names = sorted(os.listdir(self.folder))
        found = (self._looked_at(match[1]) for name in names if (match := _FILE.fullmatch(name)))
        return [shelved for shelved in found if shelved is not None]

    def _looked_at(self, checkpoint: str) -> Shelved | None:
        path = self.path_of(checkpoint)
        try:
            size = path.lstat().st_size
        except FileNotFoundError:  # removed since the folder was read
            return None
        try:
            manifest = _named(read_manifest(path), checkpoint)
            _check_end(path)
        except HostlerError as error:
            return Shelved(checkpoint, path, size, None, error.message)
        return Shelved(checkpoint, path, size, manifest)

    def children(self, checkpoint: str) -> list[str]:
        """Ids of those that continue this one and cannot be restored without it."""
        return [shelved.id for shelved in self.entries() if shelved.manifest is not None and shelved.manifest.parent == checkpoint]

    def remove(self, checkpoint: str) -> bool:
        """Remove a checkpoint's file; False if there was none. Raises :class:`Conflict` while another continues it."""
        path = self.path_of(checkpoint)
        if children := self.children(checkpoint):
            raise Conflict(f"checkpoint {checkpoint} is continued by {', '.join(children[:8])}", hint="remove those first")
        with told_of(path):
            there = os.path.lexists(path)
            path.unlink(missing_ok=True)
        return there

    def receive(self, source: Source, *, limit: int, key: Key | None = None) -> Manifest:
        """Take in a checkpoint's file from a wire that ends with it, and verify all of it before it appears; its public manifest.

        Raises :class:`Invalid` for a damaged one or one of more than ``limit`` bytes, :class:`Conflict` if its id is here already,
        :class:`NoRoom`; what the wire raises is passed on. On any failure nothing is left.
        """
        with file_draft(self.folder / f"arriving{SUFFIX}") as draft:
            with Disk(draft.handle, draft.path) as disk:
                _copied(source, disk, limit)
            verify(draft.path, key)
            manifest = read_manifest(draft.path)
            draft.appear(self.path_of(manifest.id))
        return manifest

    def clean_drafts(self) -> list[str]:
        """Remove what killed writers left; the names."""
        with told_of(self.folder):
            return drafts.clean_drafts(self.folder)

    def free(self) -> int:
        """Bytes that checkpoints may still take."""
        with told_of(self.folder):
            about = os.statvfs(self.folder)
        return max(0, about.f_bavail * about.f_frsize - self._reserve)

    def check_room(self, needed: int) -> None:
        """Raises :class:`NoRoom` where ``needed`` bytes would not fit. Memory seldom takes more in a checkpoint than it has."""
        if (free := self.free()) < needed:
            raise NoRoom(
                f"a checkpoint of {format_size(needed)} does not fit into {self.folder}: {format_size(free)} are left",
                hint="remove old checkpoints (hostler checkpoint rm), or give the folder more space",
            )


def _named(manifest: Manifest, checkpoint: str) -> Manifest:
    if manifest.id != checkpoint:
        raise Invalid(f"the file of checkpoint {checkpoint} holds checkpoint {manifest.id}", hint=f"name it {manifest.id}{SUFFIX}")
    return manifest


def _check_end(path: Path) -> None:
    """A file that was cut ends with something else."""
    with told_of(path), path.open("rb", buffering=0) as file:
        file.seek(-len(END), os.SEEK_END)
        if file.read(len(END)) != END:
            raise damaged("it was cut, or something follows its end")


def _copied(source: Source, disk: Disk, limit: int) -> None:
    piece = memoryview(bytearray(_PIECE))
    total = 0
    while count := fill(source, piece):
        total += count
        if total > limit:
            raise Invalid(f"the checkpoint that arrives has more than {format_size(limit)}", hint="raise the limit, or take fewer things into it")
        put(disk, piece[:count])
