"""Volumes as subvolumes of a btrfs, with a hard quota each.

An image is a read-only subvolume, a volume a snapshot of it. What a quota counts:

* with simple quotas (Linux ≥ 6.7), every byte that the volume and subvolumes nested in it wrote since it was made, its
  metadata included. The image's files cost nothing, so a container of a 300 MB image with 100 MB of disk can write 100 MB.
  A file of the image that is overwritten costs what is written and gives nothing back;
* with full qgroups (older kernels), the bytes that no other volume or image shares. Subvolumes that a tenant nests are
  not counted, which :meth:`Btrfs.probe` says.

A tenant must not have the btrfs ioctls that make subvolumes: BTRFS_IOC_SUBVOL_CREATE_V2 and its kin let anybody choose
which quota group a new one joins, none included, and so escape the quota. A seccomp profile has to deny them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from hostler.contracts.driver import Host, Item, Lack, Probe, Settings
from hostler.contracts.storage import IdmapMount, RootPlan, Storage, StorageCapabilities, VolumeUsage
from hostler.core.errors import Conflict, HostFailure, NoRoom, NotFound
from hostler.core.units import MIB, Size, format_size
from hostler.host import btrfs, loop, mounts, qgroups
from hostler.host.failures import FULL, explained
from hostler.host.qgroups import Mode
from hostler_plugins.storage.filling import fill_image
from hostler_plugins.storage.layout import Layout, draft_of
from hostler_plugins.storage.locks import if_free, locked

#: Volumes' quota groups have a level of their own, which tells whose they are.
_OUR_LEVELS = 0x8000
_FULL_HINT = "delete containers or images on this server, or make its pool larger"
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


class Btrfs(Storage):
    """Driver ``btrfs``."""

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
    def capabilities(self) -> StorageCapabilities:
        """Quotas, and changing them live."""
        return StorageCapabilities(quota=True, live_resize=True)

    def probe(self) -> Probe:
        """Whether there is a btrfs, or what it takes to make one, and how it counts."""
        if "\tbtrfs\n" not in Path("/proc/filesystems").read_text():
            return Probe(lacks=[Lack(what="the kernel has no btrfs", remedy="modprobe btrfs, or use the overlay driver", blocks=True)])
        offers, lacks = [], []
        if self.settings.file is not None and not mounts.is_mounted(self._pool):
            lacks += _lacks_for_file()
            mode = self.settings.quota if qgroups.simple_known() else Mode.FULL
        elif not self._pool.is_dir() or not btrfs.is_btrfs(self._pool):
            remedy = "mount a btrfs there or set `pool` to one; for a lab server set `file` and `size`"
            return Probe(lacks=[Lack(what=f"{self._pool} is not on btrfs", remedy=remedy, blocks=True)])
        else:
            offers.append(f"btrfs at {self._pool}")
            mode = self._mode_to_be()
        offers.append(f"{mode} quotas")
        if mode is not Mode.SIMPLE:
            lacks.append(
                Lack(what="full qgroups: slow with many volumes, and subvolumes that a tenant nests are not counted", remedy="run Linux 6.7 or newer")
            )
        return Probe(offers=offers, lacks=lacks)

    def setup(self) -> None:
        """Make or mount the pool if it is ours to make, turn counting on, remove what a crash left."""
        if self.settings.file is not None and self.settings.size is not None:
            loop.ensure_pool(self.settings.file, self.settings.size, self._pool)
        with explained(f"set up the pool {self._pool}", full=_FULL_HINT):
            self._layout.make()
            with btrfs.opened(self._pool) as pool:
                qgroups.enable(pool, self.settings.quota)
                self._clean(pool)

    def teardown(self) -> None:
        """Remove the images and our folders, and the whole pool if :meth:`setup` made it. Raises :class:`Conflict` while
        there are volumes."""
        file, size = self.settings.file, self.settings.size
        if file is not None and size is not None and file.exists():
            loop.ensure_pool(file, size, self._pool)  # to see whether there are volumes in it
        volumes = self._layout.names(self._layout.volumes)
        if volumes:
            raise Conflict(f"{len(volumes)} volumes are left in {self._pool}", hint="delete their containers first")
        if file is not None:
            loop.remove_pool(file, self._pool)
        elif self._layout.base.is_dir():
            for image in self._layout.names(self._layout.images):
                self.remove_image(image)
            with explained(f"remove {self._layout.base}"):
                with btrfs.opened(self._pool) as pool:
                    self._clean(pool)
                self._layout.remove()
        if self._locks.is_dir():
            shutil.rmtree(self._locks)

    # --- images

    def has_image(self, image: str) -> bool:
        """One ``lstat``."""
        return btrfs.is_subvolume(self._layout.image(image))

    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        """As the contract says. The files are on disk before the image has its name: a power cut leaves a whole image or
        a draft, which the next :meth:`setup` or ``add_image`` removes."""
        folder = self._layout.image(image)
        with self._alone("image", image):
            if self.has_image(image):
                return
            with self._folder(folder.parent) as parent:
                with explained(f"add image {image}", full=_FULL_HINT):
                    self._destroy(parent, draft_of(image))
                    self._with_room(parent, lambda: btrfs.create(parent, draft_of(image)))
                try:
                    fill_image(image, folder.with_name(draft_of(image)), fill, _FULL_HINT)
                    with explained(f"add image {image}", full=_FULL_HINT):
                        self._seal(parent, image)
                except BaseException:
                    self._destroy(parent, draft_of(image))
                    raise

    def _seal(self, parent: int, image: str) -> None:
        with btrfs.opened(draft_of(image), parent) as inside:
            btrfs.sync(inside)
            btrfs.set_read_only(inside, True)
        os.rename(draft_of(image), image, src_dir_fd=parent, dst_dir_fd=parent)

    def remove_image(self, image: str) -> None:
        """Volumes made from it live on. With full qgroups what only one of them still shared with it now counts as its
        own, so there it is refused with :class:`Conflict` while there are volumes."""
        folder = self._layout.image(image)
        with self._alone("image", image):
            if not folder.parent.is_dir():
                return
            with explained(f"remove image {image}", full=_FULL_HINT), btrfs.opened(folder.parent) as parent:
                if folder.is_dir() and qgroups.mode(parent) is Mode.FULL and self._layout.names(self._layout.volumes):
                    raise Conflict(
                        f"image {image} may be in use: with full qgroups its bytes would count for a volume made from it",
                        hint="delete the server's containers first, or run Linux 6.7 or newer", code="image_in_use",
                    )
                self._destroy(parent, image)

    # --- volumes

    def create(self, volume: str, image: str, size: int | None) -> None:
        """As the contract says; about 1.5 ms. The limit holds from the volume's first moment."""
        folder, origin = self._layout.volume(volume), self._layout.image(image)
        with self._alone("volume", volume):
            if btrfs.is_subvolume(folder):
                self._set_size(volume, size)
                return
            with (
                explained(f"create volume {volume}", full=_FULL_HINT),
                self._image(origin) as source,
                self._folder(folder.parent) as parent,
            ):
                make = self._create_grouped if qgroups.mode(parent) is Mode.SIMPLE else self._create_alone
                self._with_room(parent, lambda: make(source, parent, volume, size))

    def _create_grouped(self, source: int, parent: int, volume: str, size: int | None) -> None:
        with locked(self._locks, "groups", shared=True):
            group = qgroups.group_id(self._level, secrets.randbits(48))
            qgroups.make(parent, group)
            try:
                if size is not None:
                    qgroups.limit(parent, group, size, Mode.SIMPLE)
                btrfs.snapshot(source, parent, volume, group=group)
            except BaseException:
                self._dying.append(group)
                self._reap(parent)
                raise

    def _create_alone(self, source: int, parent: int, volume: str, size: int | None) -> None:
        draft = draft_of(volume)
        self._destroy(parent, draft)
        btrfs.snapshot(source, parent, draft)
        try:
            with btrfs.opened(draft, parent) as inside:
                qgroups.limit(inside, btrfs.subvolume_id(inside), size, Mode.FULL)
            os.rename(draft, volume, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            self._destroy(parent, draft)
            raise

    def delete(self, volume: str) -> None:
        """As the contract says; what is nested in it goes too. The kernel frees the space soon after."""
        folder = self._layout.volume(volume)
        with self._alone("volume", volume), explained(f"delete volume {volume}", full=_FULL_HINT):
            if folder.parent.is_dir():
                with btrfs.opened(folder.parent) as parent:
                    self._destroy(parent, draft_of(volume))
                    self._destroy(parent, volume)
                    self._reap(parent)

    def resize(self, volume: str, size: int | None) -> None:
        """As the contract says."""
        folder = self._layout.volume(volume)
        with self._alone("volume", volume):
            if not btrfs.is_subvolume(folder):
                raise _no_volume(volume)
            self._set_size(volume, size)

    def usage(self, volume: str) -> VolumeUsage:
        """What the quota counts; files just deleted count until the next commit (30 s, or sooner)."""
        with self._opened(volume) as inside, explained(f"measure volume {volume}"):
            charge = qgroups.charge(inside, *self._group(inside))
        return VolumeUsage(used=charge.used, limit=charge.limit)

    def root_plan(self, volume: str) -> RootPlan:
        """The subvolume, ids shifted."""
        return RootPlan(mounts=[IdmapMount(source=self._layout.volume(volume), target="root")])

    def free(self) -> tuple[int, int]:
        """Of the whole file system."""
        with explained(f"measure the pool {self._pool}"):
            found = os.statvfs(self._pool)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def inventory(self) -> list[Item]:
        """Images, volumes, and drafts of both; and the pool, if it is in a file."""
        items = self._layout.inventory("subvolume")
        if self.settings.file is not None and self.settings.file.exists():
            items.append(Item(kind="pool", name=str(self.settings.file)))
        return items

    # --- parts

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
            raise _no_volume(volume) from None

    def _mode_to_be(self) -> Mode:
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

    def _set_size(self, volume: str, size: int | None) -> None:
        with self._opened(volume) as inside, explained(f"resize volume {volume}", full=_FULL_HINT):
            group, mode = self._group(inside)
            if size is not None and qgroups.charge(inside, group, mode).used > size:
                btrfs.commit(inside)  # what was just deleted counts until then
                used = qgroups.charge(inside, group, mode).used
                if used > size:
                    raise Conflict(
                        f"volume {volume} holds {format_size(used)}, more than {format_size(size)}",
                        hint="delete files in the container, or give it a larger size", code="below_use",
                    )
            qgroups.limit(inside, group, size, mode)

    def _destroy(self, parent: int, name: str) -> None:
        """Delete a subvolume, and see to it that its quota group goes when the kernel is done; none is a success."""
        try:
            with btrfs.opened(name, parent) as inside:
                group, mode = self._group(inside)
            try:
                btrfs.destroy(parent, name)
            except OSError as error:
                if error.errno != errno.EDQUOT:
                    raise
                qgroups.limit(parent, group, None, mode)  # unlinking a nested subvolume is charged to the one it is in
                btrfs.destroy(parent, name)
        except FileNotFoundError:
            return
        self._dying.append(group)
        self._destroyed_at = time.monotonic()
        btrfs.start_commit(parent)

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
        while True:
            left = self.free()[0]
            recent = time.monotonic() - self._destroyed_at < _CLEANING
            if left >= self.settings.reserve:
                try:
                    return make()
                except OSError as error:
                    if error.errno not in FULL or not recent:
                        raise
            elif not recent:
                raise NoRoom(
                    f"the pool is full: {format_size(left)} are free, {format_size(self.settings.reserve)} are kept for running containers",
                    hint=_FULL_HINT, code="disk_full",
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
        with locked(self._locks, "groups"):
            for group in qgroups.at_level(pool, self._level):
                qgroups.reap(pool, group)


def _no_volume(volume: str) -> NotFound:
    return NotFound(f"there is no volume {volume} on this server", hint="create it first", code="volume_not_found")


def _hash15(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") >> 1


def _lacks_for_file() -> list[Lack]:
    lacks = []
    if shutil.which("mkfs.btrfs") is None:
        lacks.append(Lack(what="mkfs.btrfs is missing", remedy="apt-get install btrfs-progs", blocks=True))
    if not Path("/dev/loop-control").exists():
        lacks.append(Lack(what="the kernel has no loop devices", remedy="modprobe loop", blocks=True))
    return lacks
