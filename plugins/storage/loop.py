"""Volumes as an ext4 each, in a sparse file: held to their size by the size of the file system.

An image is an ext4 that was made once, as small as can be; a volume is a copy of it (shared blocks on btrfs and xfs, the data
without the holes elsewhere) that is grown by the volume's size. The image's files cost nothing. A volume's
size is what its own files may take; file systems keep a little for themselves, so it can be a per cent more.

The disk is mounted on the host while a container uses it, from :meth:`Loop.root_plan` to :meth:`Loop.detach`; files keep ids 0 … 65535
on it. Disks are sparse: when the pool is full, a tenant that is below its size gets EIO, not ENOSPC. Watch the pool.

Snapshots are copies of the disk, and do not count towards the volume's size: all of a volume's together may hold
``snapshot_share`` times its size, above which the next is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostler.contracts.driver import Item, Lack, Probe
from hostler.contracts.storage import IdmapMount, RootPlan, StorageCapabilities, VolumeUsage
from hostler.core.errors import Conflict, NotFound
from hostler.core.units import MIB, format_size
from hostler.host import btrfs, ext4, loop, mounts
from hostler.host.failures import explained
from hostler_plugins.storage.filling import fill_image
from hostler_plugins.storage.layout import draft_of
from hostler_plugins.storage.locks import if_free, locked
from hostler_plugins.storage.loop_parts import (
    FULL_HINT,
    Record,
    copy_disk,
    is_attached,
    nearest,
    read_record,
    remove_lost_and_found,
    settled,
    write_record,
)
from hostler_plugins.storage.loop_snapshots import LoopSnapshots
from hostler_plugins.storage.trees import measure, remove_tree

_PROGRAMS = ("mkfs.ext4", "e2fsck", "resize2fs")
_EVERYTHING = 2**40


class Loop(LoopSnapshots):
    """Driver ``loop``."""

    @property
    def capabilities(self) -> StorageCapabilities:
        """All of them; a volume in use can only grow where the kernel lets us."""
        return StorageCapabilities(quota=True, live_resize=ext4.can_grow_mounted(), snapshot=True, send=True, send_delta=True)

    def probe(self) -> Probe:
        """Whether there are loop devices, ext4 and its programs."""
        lacks = [
            Lack(what=f"{program} is missing", remedy="apt-get install e2fsprogs", blocks=True)
            for program in _PROGRAMS
            if shutil.which(program) is None
        ]
        if not Path("/dev/loop-control").exists():
            lacks.append(Lack(what="the kernel has no loop devices", remedy="modprobe loop", blocks=True))
        if not mounts.kernel_has("ext4"):
            lacks.append(Lack(what="the kernel has no ext4", remedy="modprobe ext4", blocks=True))
        kind = mounts.mount_holding(nearest(self._pool)).kind
        if kind not in ("btrfs", "xfs"):
            lacks.append(Lack(what=f"{kind} shares no blocks: each volume and snapshot is a full copy", remedy="put the pool on xfs or btrfs"))
        if not ext4.can_grow_mounted():
            what = "root lacks CAP_SYS_RESOURCE: a volume cannot grow while a container uses it"
            lacks.append(Lack(what=what, remedy="run the node worker with that capability"))
        return Probe(offers=[f"ext4 in files on {kind}"], lacks=lacks)

    def setup(self) -> None:
        """Make the folders, remove what a crash left, and let go what it held still."""
        with explained(f"set up {self._layout.base}", full=FULL_HINT):
            self._layout.make()
            for kind, folder in (("image", self._layout.images), ("volume", self._layout.volumes)):
                for thing in self._layout.drafts(folder):
                    with if_free(self._locks, f"{kind}-{thing}") as free:
                        if free:
                            self._discard(folder / draft_of(thing))
            for volume in {*self._layout.names(self._layout.volumes), *self._layout.volumes_with_snapshots()}:
                with if_free(self._locks, f"volume-{volume}") as free:
                    if free:
                        self._recover(volume)

    def _recover(self, volume: str) -> None:
        folder = self._layout.volume(volume)
        if is_attached(folder):
            with btrfs.opened(folder / "mount") as inside:
                ext4.thaw(inside)
        snapshots = self._layout.snapshots_of(volume)
        orphans = [] if folder.is_dir() else self._layout.names(snapshots)
        for name in [*orphans, *map(draft_of, self._layout.drafts(snapshots))]:
            self._discard(snapshots / name)
        self._tidy(snapshots)

    def teardown(self) -> None:
        """Remove the images and our folders. Raises :class:`Conflict` while there are volumes."""
        volumes = self._layout.names(self._layout.volumes)
        if volumes:
            raise Conflict(f"{len(volumes)} volumes are left in {self._pool}", hint="delete their containers first")
        with explained(f"remove {self._layout.base}"):
            for mount in mounts.mounts_below(self._layout.base):
                mounts.unmount(mount.point)
            remove_tree(self._layout.base)
            remove_tree(self._locks)

    # --- images

    def has_image(self, image: str) -> bool:
        """One ``stat``."""
        return self._layout.image(image).is_dir()

    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        """As the contract says. The files are written twice: once by ``fill``, once into the file system."""
        folder = self._layout.image(image)
        with self._alone("image", image):
            if folder.is_dir():
                return
            self._need_room()
            with self._draft(folder) as draft:
                unpacked = draft / "files"
                unpacked.mkdir()
                fill_image(image, unpacked, fill, FULL_HINT)
                with explained(f"add image {image}", full=FULL_HINT):
                    self._make_template(image, draft, unpacked)
                    settled(draft, lambda: draft.rename(folder))

    def _make_template(self, image: str, draft: Path, unpacked: Path) -> None:
        below = measure(unpacked, _EVERYTHING)
        disk, point = draft / "disk", draft / "mount"
        ext4.make(disk, unpacked, below.bytes * 9 // 8 + below.entries * 5000 + 32 * MIB, below.entries)
        point.mkdir()
        loop.mount_file(disk, point, "ext4")
        remove_lost_and_found(point)
        root = unpacked.stat()
        os.chown(point, root.st_uid, root.st_gid)
        point.chmod(root.st_mode & 0o7777)
        os.utime(point, ns=(root.st_mtime_ns, root.st_mtime_ns))
        found = os.statvfs(point)
        base = (found.f_blocks - found.f_bfree) * found.f_frsize
        self._release(draft)
        remove_tree(unpacked)
        ext4.resize(disk, None)
        own = ext4.size_of(disk).used - base
        write_record(draft, Record(image=image, base=base, own=own, taken=own))

    def remove_image(self, image: str) -> None:
        """Volumes made from it live on."""
        folder = self._layout.image(image)
        with self._alone("image", image), explained(f"remove image {image}"):
            self._retire(folder)

    # --- volumes

    def create(self, volume: str, image: str, size: int | None) -> None:
        """As the contract says."""
        folder, origin = self._layout.volume(volume), self._layout.image(image)
        with self._alone("volume", volume):
            if folder.is_dir():
                self._resize(volume, size)
                return
            with locked(self._locks, f"image-{image}", shared=True), explained(f"create volume {volume}", full=FULL_HINT):
                if not origin.is_dir():
                    raise NotFound(f"image {image} is not on this server", hint="add the image first", code="image_not_found")
                self._need_room()
                with self._draft(folder) as draft:
                    copy_disk(origin / "disk", draft / "disk")
                    write_record(draft, read_record(origin).model_copy(update={"size": size}))
                    self._fit(draft, clean=True)
                    draft.rename(folder)

    def delete(self, volume: str) -> None:
        """As the contract says; its snapshots go too."""
        folder = self._layout.volume(volume)
        with self._alone("volume", volume), explained(f"delete volume {volume}"):
            self._retire(folder)
            self._delete_snapshots(volume)

    def resize(self, volume: str, size: int | None) -> None:
        """As the contract says. It can shrink while no container uses it, else :class:`Conflict`; and grow at any time, but
        where the capability ``live_resize`` is false."""
        self._layout.volume(volume)
        with self._alone("volume", volume), explained(f"resize volume {volume}", full=FULL_HINT):
            self._resize(volume, size)

    def _resize(self, volume: str, size: int | None) -> None:
        folder = self._must_exist(volume)
        record = read_record(folder)
        if record.size == size:
            return
        wanted = record.model_copy(update={"size": size})
        total = self._total(wanted, ext4.size_of(folder / "disk").group_own)
        now = ext4.size_of(folder / "disk").total
        if total > now and is_attached(folder) and self.capabilities.live_resize:
            self._grow(folder, total)
            write_record(folder, read_record(folder).model_copy(update={"size": size}))
            return
        if total < now:
            self._check_shrinking(volume, record, size)
        self._must_not_run(volume, "given another size" if total > now else "made smaller")
        self._release(folder)
        write_record(folder, wanted)
        try:
            self._fit(folder)
        except BaseException:
            write_record(folder, record)
            raise

    def _check_shrinking(self, volume: str, record: Record, size: int | None) -> None:
        used = max(0, self._used(self._layout.volume(volume))[0] - record.base)
        if size is not None and used > size:
            raise Conflict(
                f"volume {volume} holds {format_size(used)}, more than {format_size(size)}",
                hint="delete files in the container, or give it a larger size", code="below_use",
            )

    def usage(self, volume: str) -> VolumeUsage:
        """What its own files take."""
        folder = self._must_exist(volume)
        with self._alone("volume", volume), explained(f"measure volume {volume}"):
            record = read_record(self._must_exist(volume))
            used, inodes = self._used(folder)
        return VolumeUsage(used=max(0, used - record.base), limit=record.size, inodes=inodes)

    def root_plan(self, volume: str) -> RootPlan:
        """The disk, mounted on the host until :meth:`detach`, ids shifted."""
        self._layout.volume(volume)
        with self._alone("volume", volume), explained(f"mount volume {volume}", full=FULL_HINT):
            return RootPlan(mounts=[IdmapMount(source=self._attach(self._must_exist(volume)), target="root")])

    def detach(self, volume: str) -> None:
        """Unmount the disk on the host; its loop device goes with the container's own mount."""
        folder = self._layout.volume(volume)
        with self._alone("volume", volume), explained(f"unmount volume {volume}"):
            self._release(folder)

    def check(self, volume: str) -> list[str]:
        """``e2fsck -f -p``. Raises :class:`Conflict` for a volume that a container uses."""
        folder = self._must_exist(volume)
        with self._alone("volume", volume), explained(f"check volume {volume}"):
            self._must_not_run(volume, "checked")
            self._release(self._must_exist(volume))
            return ext4.check(folder / "disk")

    def inventory(self) -> list[Item]:
        """Images, volumes, snapshots, drafts of them, mounts, and loop devices that are left without one."""
        items = self._layout.inventory("disk")
        base = self._layout.base.resolve()
        mounted = mounts.mounts_below(base) if base.is_dir() else []
        items += [Item(kind="mount", name=str(mount.point.relative_to(base)), owner=mount.point.parent.name) for mount in mounted]
        sources = {mount.source for mount in mounted}
        for device, file in loop.attached_below(base):
            if str(device) not in sources:
                items.append(Item(kind="loop", name=str(device), owner=file.parent.name))
        return items
