"""What the verbs of the loop driver are made of: a volume's folder with its disk, its record, its mount and its size.

``volumes/VOLUME`` and ``snapshots/VOLUME/SNAPSHOT`` hold ``disk``, a sparse file with an ext4 in it, and ``record.json``; a
volume's has ``mount`` too, where its disk is mounted while a container uses it. ``images/IMAGE`` is the same, its ext4 as
small as can be.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from hostler.contracts.driver import Host, Settings
from hostler.contracts.storage import Storage
from hostler.core.errors import Conflict, HostFailure, Invalid, NoRoom, NotFound
from hostler.core.units import GIB, MIB, Size, format_size
from hostler.host import btrfs, ext4, files, loop, mounts
from hostler_plugins.storage.layout import Layout, draft_of
from hostler_plugins.storage.locks import locked
from hostler_plugins.storage.trees import remove_tree

FULL_HINT = "delete containers or images on this server, or make its disk larger"
#: Inode tables of new groups are not written with zeros, which the sparse file has anyway; what is deleted is given back.
_OPTIONS = "noinit_itable,discard"
#: Files on ext4 are no larger.
_LARGEST = 15 * 1024 * GIB
#: How long a mount may be busy, and a loop device may take to go after that, and how often to look, in seconds.
_LETTING_GO, _PAUSE = 0.5, 0.005


class LoopSettings(Settings):
    """Where images and volumes are kept."""

    pool: Path | None = Field(default=None, description="folder on ext4, xfs or btrfs; default: the node's state folder")
    reserve: Size = Field(default=256 * MIB, description="bytes that must be free for a new image or volume")
    unlimited: Size = Field(default=64 * GIB, description="bytes of a volume that no limit was given for")
    snapshot_share: float = Field(default=3.0, ge=0, description="snapshots of a volume together may hold so many times its size")


class Record(BaseModel):
    """What is kept of an image, volume or snapshot beside its disk."""

    image: str | None = None
    base: int = 0
    """Bytes of files that do not count: the image's."""
    own: int = 0
    """Bytes that an ext4 takes for itself when it is as small as can be."""
    taken: int = 0
    """Bytes that its ext4 takes for itself now."""
    size: int | None = None
    """Of a volume: its limit."""
    identity: str = ""
    """Of a snapshot: the same on all servers that have it, and another for any other."""
    created_at: float = 0
    charge: int = 0
    """Of a snapshot: bytes of its volume's own files when it was taken."""


class LoopParts(Storage):
    """Base of the driver ``loop``."""

    name: ClassVar[str] = "loop"
    settings_model: ClassVar[type[Settings]] = LoopSettings
    settings: LoopSettings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._pool = self.settings.pool or self.folder / "pool"
        self._layout = Layout.of(self._pool, host)
        self._locks = self.folder / "locks"

    @contextmanager
    def _alone(self, kind: str, thing: str) -> Iterator[None]:
        with locked(self._locks, f"{kind}-{thing}"):
            yield

    def _must_exist(self, volume: str) -> Path:
        folder = self._layout.volume(volume)
        if not folder.is_dir():
            raise no_volume(volume)
        return folder

    def free(self) -> tuple[int, int]:
        """Of the file system that the disks are on. Disks are sparse: what volumes may grow to can be more."""
        place = nearest(self._pool)
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def _need_room(self) -> None:
        left = self.free()[0]
        if left < self.settings.reserve:
            raise NoRoom(
                f"the disk is full: {format_size(left)} are free, {format_size(self.settings.reserve)} are kept for the server",
                hint=FULL_HINT, code="disk_full",
            )

    # --- sizes

    @abstractmethod
    def _resize(self, volume: str, size: int | None) -> None:
        """The verb ``resize``, with the volume's lock held."""

    def _total(self, record: Record, group_own: int) -> int:
        """Bytes that the disk of a volume must have for its limit to be what its own files can take."""
        size = self.settings.unlimited if record.size is None else record.size
        groups = (record.base + record.own + size) // ext4.GROUP + 1
        total = record.base + record.own + size + groups * group_own
        if total > _LARGEST:
            raise Invalid(f"a volume of {format_size(size)} is larger than any", hint=f"at most {format_size(_LARGEST)}, the image's files included")
        return total // ext4.BLOCK * ext4.BLOCK

    def _fit(self, folder: Path, *, clean: bool = False) -> None:
        """Make the disk, which is not mounted, as large or small as its record says. Raises :class:`Conflict` when there is
        more on it."""
        disk, now = folder / "disk", ext4.size_of(folder / "disk")
        total = self._total(read_record(folder), now.group_own)
        if total == now.total:
            return
        try:
            ext4.resize(disk, total, clean=clean)
        except (HostFailure, NoRoom) as error:
            if total > now.total:
                raise
            raise Conflict(
                f"the file system of {format_size(now.total)} cannot be made as small: {error.message}",
                hint="give it a larger size", code="below_use",
            ) from error
        taken = ext4.size_of(disk).used - now.used
        record = read_record(folder)
        write_record(folder, record.model_copy(update={"taken": record.taken + taken}))

    def _used(self, folder: Path) -> tuple[int, int]:
        """Bytes and inodes in use on a volume's disk, its image's included."""
        if is_attached(folder):
            found = os.statvfs(folder / "mount")
            return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree
        now = ext4.size_of(folder / "disk")
        return max(0, now.used - read_record(folder).taken), now.inodes

    # --- mounts. All are called with the volume's lock held.

    def _attach(self, folder: Path) -> Path:
        """Mount a volume's disk on the host; where."""
        disk, point = folder / "disk", folder / "mount"
        point.mkdir(mode=0o700, exist_ok=True)
        if not is_attached(folder):
            loop.mount_file(disk, point, "ext4", _OPTIONS)
            remove_lost_and_found(point)
        return point

    def _grow(self, folder: Path, total: int) -> None:
        """Let a mounted disk and its file system have ``total`` bytes. Live."""
        os.truncate(folder / "disk", total)
        loop.follow_size(folder / "disk")
        with btrfs.opened(folder / "mount") as inside:
            ext4.grow(inside, total)
        self._see_taken(folder)

    def _see_taken(self, folder: Path) -> None:
        """Keep what the file system of a mounted disk takes for itself."""
        found = os.statvfs(folder / "mount")
        taken = ext4.size_of(folder / "disk").total - found.f_blocks * found.f_frsize
        write_record(folder, read_record(folder).model_copy(update={"taken": taken}))

    def _release(self, folder: Path) -> None:
        """Unmount a volume's disk; when nobody else has it mounted its loop device goes too. Not mounted is a success."""
        point = folder / "mount"
        if not is_attached(folder):
            return
        mount = mounts.at(point)
        _unmount(point)
        held = Path("/sys/block") / Path(mount.source).name / "loop" if mount is not None else None
        _wait(lambda: held is None or not held.exists())

    def _must_not_run(self, volume: str, what: str) -> None:
        """Raises :class:`Conflict` when a container has the volume mounted."""
        folder = self._layout.volume(volume)
        device = loop.device_of(folder / "disk")
        if device is None:
            return
        number = os.stat(device).st_rdev
        if mounts.users_of((os.major(number), os.minor(number)), but_at=(folder / "mount").resolve()):
            raise Conflict(f"volume {volume} is in use by a container: it cannot be {what}", hint="stop the container first", code="in_use")

    # --- folders

    def _discard(self, folder: Path) -> None:
        """Remove a volume, image or snapshot with its mount; none is a success."""
        if folder.is_dir():
            self._release(folder)
            remove_tree(folder)

    @contextmanager
    def _draft(self, folder: Path) -> Iterator[Path]:
        """An empty folder by the draft's name of ``folder``, which is gone, or has been renamed, after the block."""
        draft = folder.with_name(draft_of(folder.name))
        self._discard(draft)
        if not self._layout.volumes.is_dir():
            raise HostFailure(f"the pool {self._pool} is not set up", hint="is it mounted? restart the node worker: it sets it up", code="no_pool")
        draft.mkdir(mode=0o700, parents=True)
        try:
            yield draft
        finally:
            self._discard(draft)

    def _retire(self, folder: Path) -> None:
        """Take a folder away at one instant, and remove it."""
        draft = folder.with_name(draft_of(folder.name))
        self._discard(draft)
        if folder.is_dir():
            self._release(folder)
            folder.rename(draft)
            self._discard(draft)


def _wait(done: Callable[[], bool]) -> None:
    """Until that is so, or for a moment."""
    deadline = time.monotonic() + _LETTING_GO
    while not done() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _unmount(point: Path) -> None:
    """Somebody may just be looking at the mount: it is tried for a moment."""

    def gone() -> bool:
        try:
            mounts.unmount(point)
        except HostFailure as error:
            if error.stable_code == "mount_busy":
                return False
            raise
        return True

    _wait(gone)
    mounts.unmount(point)


def is_attached(folder: Path) -> bool:
    """Whether a volume's disk is mounted on the host. Its mount is of another device than the folder."""
    try:
        return os.stat(folder / "mount").st_dev != os.stat(folder).st_dev
    except FileNotFoundError:
        return False


def remove_lost_and_found(point: Path) -> None:
    """What mkfs and e2fsck make is no file of the image; it stays when there is something in it."""
    place = point / "lost+found"
    if place.is_dir() and not place.is_symlink() and not os.listdir(place):
        times = point.stat()
        place.rmdir()
        os.utime(point, ns=(times.st_atime_ns, times.st_mtime_ns))


def copy_disk(source: Path, target: Path) -> None:
    """A new file with the same content: shared blocks where the pool can, else its data without the holes."""
    old = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        new = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            files.copy(old, new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def read_record(folder: Path) -> Record:
    """What is kept beside a disk."""
    return Record.model_validate_json((folder / "record.json").read_text())


def write_record(folder: Path, record: Record) -> None:
    """Keep it, whole or not at all."""
    draft = folder / ".record.json"
    draft.write_text(record.model_dump_json())
    os.replace(draft, folder / "record.json")


def settled(draft: Path, name: Callable[[], object]) -> None:
    """Bring what is in a draft to the disk, then call ``name``, which gives it its name, and bring that to the disk."""
    with btrfs.opened(draft) as inside:
        for entry in ("disk", "record.json"):
            handle = os.open(entry, os.O_RDONLY | os.O_CLOEXEC, dir_fd=inside)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        os.fsync(inside)
        name()
    with btrfs.opened(draft.parent) as parent:
        os.fsync(parent)


def nearest(folder: Path) -> Path:
    """``folder``, or the nearest above it that exists."""
    while not folder.is_dir():
        folder = folder.parent
    return folder


def no_volume(volume: str) -> NotFound:
    """There is none."""
    return NotFound(f"there is no volume {volume} on this server", hint="create it first", code="volume_not_found")
