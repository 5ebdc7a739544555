"""What the verbs of the btrfs driver are made of: folders, quota groups, the record of a subvolume, and room."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import structlog
from pydantic import BaseModel, Field, ValidationError, model_validator

from hostler.contracts.driver import Host, Settings
from hostler.contracts.storage import Storage
from hostler.core.errors import Conflict, HostFailure, NoRoom, NotFound
from hostler.core.units import MIB, Size, format_size
from hostler.host import btrfs, qgroups
from hostler.host.failures import FULL, explained
from hostler.host.qgroups import Mode
from hostler_plugins.storage.layout import Layout, draft_of
from hostler_plugins.storage.locks import if_free, locked

log = structlog.get_logger()

_RECORD = "trusted.hostler"
#: Volumes' quota groups have a level of their own, which tells whose they are.
_OUR_LEVELS = 0x8000
FULL_HINT = "delete containers or images on this server, or make its pool larger"
#: For how long after a deletion its space may still be missing, and how often to look, in seconds.
_CLEANING, _PAUSE = 3.0, 0.05
#: How many groups of deleted volumes one call tries to remove.
_REAPED_AT_ONCE = 16


class BtrfsSettings(Settings):
    """Where the pool is."""

    pool: Path | None = Field(default=None, description="folder on a mounted btrfs; default: in the node's state folder")
    file: Path | None = Field(default=None, description="make the pool in this file and mount it at `pool`: for lab servers")
    size: Size | None = Field(default=None, description="bytes of a new file, at least 128M")
    reserve: Size = Field(default=32 * MIB, description="bytes that must be free for a new image or volume")
    quota: Mode = Field(default=Mode.SIMPLE, description="how a pool is made to count that does not yet: simple or full")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.file is None) != (self.size is None):
            raise ValueError("file and size belong together: give both, or neither")
        if self.quota is Mode.OFF:
            raise ValueError("quota cannot be off: use the overlay driver for volumes without limits")
        return self


class Record(BaseModel):
    """What is kept of a snapshot, and of a volume made from one: in the attribute ``trusted.hostler`` of its root, which no
    tenant can see, and which a snapshot begins with a copy of. A volume made from an image has none: with thousands of
    volumes, writing to a new one makes the next one several times slower."""

    image: str | None = None
    """The image that it was made from, at first."""
    inherited: int = 0
    """Bytes that a clone took over from the snapshot it was made from: they count for it, though its own quota group is
    not charged with them."""
    identity: str = ""
    """Of a snapshot: the same on all servers that have it, and another for any other."""
    created_at: float = 0
    charge: int = 0
    """Of a snapshot: bytes that its volume was charged with when it was taken."""


class BtrfsParts(Storage):
    """Base of the driver ``btrfs``."""

    name: ClassVar[str] = "btrfs"
    settings_model: ClassVar[type[Settings]] = BtrfsSettings
    settings: BtrfsSettings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._pool = self.settings.pool or self.folder / "pool"
        self._layout = Layout.of(self._pool, host)
        self._level = _OUR_LEVELS | _hash15(f"{host.installation}/{host.node}")
        self._dying: deque[int] = deque()
        """Quota groups of volumes that the kernel is still cleaning away."""
        self._destroyed_at = float("-inf")

    @property
    def _locks(self) -> Path:
        return self.folder / "locks"

    @contextmanager
    def _alone(self, kind: str, thing: str) -> Iterator[None]:
        with locked(self._locks, f"{kind}-{thing}"):
            yield

    @contextmanager
    def _folder(self, folder: Path) -> Iterator[int]:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HostFailure(f"the pool {self._pool} is not set up", hint="is it mounted? restart the node worker: it sets it up", code="no_pool") from None
        try:
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def _image(self, origin: Path) -> Iterator[int]:
        try:
            with btrfs.opened(origin) as source:
                yield source
        except FileNotFoundError:
            raise NotFound(f"image {origin.name} is not on this server", hint="add the image first", code="image_not_found") from None

    @contextmanager
    def _opened(self, volume: str) -> Iterator[int]:
        try:
            with btrfs.opened(self._layout.volume(volume)) as inside:
                yield inside
        except FileNotFoundError:
            raise no_volume(volume) from None

    def _mode_to_be(self) -> Mode:
        """How the pool counts, or will when it is set up."""
        if self._pool.is_dir() and btrfs.is_btrfs(self._pool):
            with btrfs.opened(self._pool) as pool:
                now = qgroups.mode(pool)
            if now is not Mode.OFF:
                return now
        return self.settings.quota if qgroups.simple_known() else Mode.FULL

    def _group(self, inside: int) -> tuple[int, Mode]:
        """The group that holds the limit of the volume ``inside``, and how it counts."""
        own = btrfs.subvolume_id(inside)
        if qgroups.mode(inside) is not Mode.SIMPLE:
            return own, Mode.FULL
        ours = [group for group in qgroups.parents(inside, own) if group >> 48 == self._level]
        return (ours[0] if ours else own), Mode.SIMPLE

    def _image_of(self, inside: int) -> str | None:
        """The image that a volume was made from, if it is here still."""
        known = record_of(inside).image
        if known is not None:
            return known
        origin = btrfs.uuids(inside)[1]
        for image in self._layout.names(self._layout.images):
            with btrfs.opened(self._layout.image(image)) as there:
                if btrfs.uuids(there)[0] == origin:
                    return image
        return None

    def _charge(self, inside: int) -> qgroups.Charge:
        """What counts for a volume, what it inherited included, and its size."""
        charge, more = qgroups.charge(inside, *self._group(inside)), record_of(inside).inherited
        return qgroups.Charge(charge.used + more, None if charge.limit is None else charge.limit + more)

    def _set_size(self, volume: str, size: int | None) -> None:
        with self._opened(volume) as inside, explained(f"resize volume {volume}", full=FULL_HINT):
            if size is not None and self._charge(inside).used > size:
                btrfs.commit(inside)  # what was just deleted counts until then
                used = self._charge(inside).used
                if used > size:
                    raise Conflict(
                        f"volume {volume} holds {format_size(used)}, more than {format_size(size)}",
                        hint="delete files or snapshots of the container, or give it a larger size", code="below_use",
                    )
            self._limit(inside, size)

    def _limit(self, inside: int, size: int | None) -> None:
        """By a descriptor outside of the volume: inside a full one there is no room to write down a limit."""
        group, mode = self._group(inside)
        with self._folder(self._layout.volumes) as folder:
            qgroups.limit(folder, group, None if size is None else max(0, size - record_of(inside).inherited), mode)

    def _new_group(self, parent: int, size: int | None) -> int:
        """A quota group for a new volume, with simple quotas. To be made under the shared lock ``groups``."""
        group = qgroups.group_id(self._level, secrets.randbits(48))
        qgroups.make(parent, group)
        if size is not None:
            qgroups.limit(parent, group, size, Mode.SIMPLE)
        return group

    def _drop_group(self, parent: int, group: int) -> None:
        self._dying.append(group)
        self._reap(parent)

    def _destroy(self, parent: int, name: str, *, keep_group: bool = False) -> None:
        """Delete a subvolume, and see to it that its quota group goes when the kernel is done, unless others are in it;
        none is a success."""
        try:
            with btrfs.opened(name, parent) as inside:
                group, mode = self._group(inside)
            try:
                btrfs.destroy(parent, name)
            except OSError as error:
                if error.errno != errno.EDQUOT:
                    raise
                self._destroy_full(parent, name, group, mode)
        except FileNotFoundError:
            return
        if not keep_group and group not in self._dying:
            self._dying.append(group)
        self._destroyed_at = time.monotonic()
        btrfs.start_commit(parent)

    def _destroy_full(self, parent: int, name: str, group: int, mode: Mode) -> None:
        """Unlinking a nested subvolume is charged to the one it is in, which may be full."""
        limit = qgroups.charge(parent, group, mode).limit
        qgroups.limit(parent, group, None, mode)
        try:
            btrfs.destroy(parent, name)
        finally:
            qgroups.limit(parent, group, limit, mode)

    def _reap(self, fd: int) -> None:
        for _ in range(min(len(self._dying), _REAPED_AT_ONCE)):
            try:
                group = self._dying.popleft()
            except IndexError:
                return  # another thread was faster
            if not qgroups.reap(fd, group):
                self._dying.append(group)

    def _with_room(self, fd: int, make: Callable[[], None]) -> None:
        """Call ``make`` if more than the reserve is free; a full pool is given time to free what was just deleted.
        Raises :class:`NoRoom`, or ENOSPC: metadata can be full while data is not."""
        until = self._destroyed_at + _CLEANING  # what a failing `make` destroys itself gives no more time
        while True:
            left = self.free()[0]
            recent = time.monotonic() < until
            if left >= self.settings.reserve:
                try:
                    return make()
                except OSError as error:
                    if error.errno not in FULL or not recent:
                        raise
            elif not recent:
                raise NoRoom(
                    f"the pool is full: {format_size(left)} are free, {format_size(self.settings.reserve)} are kept for running containers",
                    hint=FULL_HINT, code="disk_full",
                )
            btrfs.commit(fd)
            time.sleep(_PAUSE)

    def _clean(self, pool: int) -> None:
        """Remove drafts that nobody is making, and quota groups without a volume."""
        for kind, folder in (("image", self._layout.images), ("volume", self._layout.volumes)):
            with btrfs.opened(folder) as parent:
                for thing in self._layout.drafts(folder):
                    with if_free(self._locks, f"{kind}-{thing}") as free:
                        if free:
                            self._destroy(parent, draft_of(thing))
        for volume in self._layout.volumes_with_snapshots():
            with if_free(self._locks, f"volume-{volume}") as free:
                if free:
                    self._clean_snapshots(volume)
        with locked(self._locks, "groups"):
            for group in qgroups.at_level(pool, self._level):
                qgroups.reap(pool, group)

    def _clean_snapshots(self, volume: str) -> None:
        """Remove drafts; and all, when there is no such volume."""
        folder = self._layout.snapshots_of(volume)
        orphans = [] if btrfs.is_subvolume(self._layout.volume(volume)) else self._layout.names(folder)
        with btrfs.opened(folder) as parent:
            for name in [*orphans, *map(draft_of, self._layout.drafts(folder))]:
                self._destroy(parent, name, keep_group=not orphans)
        if not os.listdir(folder):
            folder.rmdir()


def record_of(inside: int) -> Record:
    """What is kept of a subvolume; an empty one when nothing is."""
    try:
        return Record.model_validate_json(os.getxattr(inside, _RECORD))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    except ValidationError:
        log.warning("the record of a subvolume cannot be read", subvolume=os.readlink(f"/proc/self/fd/{inside}"))
    return Record()


def keep_record(inside: int, record: Record) -> None:
    """Keep it with the subvolume."""
    os.setxattr(inside, _RECORD, record.model_dump_json(exclude_defaults=True).encode())


def no_volume(volume: str) -> NotFound:
    return NotFound(f"there is no volume {volume} on this server", hint="create it first", code="volume_not_found")


def _hash15(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") >> 1
