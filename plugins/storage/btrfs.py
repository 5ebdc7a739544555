"""Volumes as subvolumes of a btrfs, with a hard quota each.

An image is a read-only subvolume, a volume a snapshot of it. What a quota counts:

* with simple quotas (Linux ≥ 6.7), every byte that the volume and subvolumes nested in it wrote since it was made, its
  metadata included. The image's files cost nothing, so a container of a 300 MB image with 100 MB of disk can write 100 MB.
  A file of the image that is overwritten costs what is written and gives nothing back. Snapshots count with their volume:
  what it wrote counts for as long as it or one of its snapshots holds it. A clone begins with what its snapshot's volume was
  charged with when the snapshot was taken, for good; on the volume it came from, what the clone holds on to counts on;
* with full qgroups (older kernels), the bytes that no other volume or image shares. Subvolumes that a tenant nests are
  not counted, which :meth:`Btrfs.probe` says.

A tenant must not have the btrfs ioctls that make subvolumes: BTRFS_IOC_SUBVOL_CREATE_V2 and its kin let anybody choose
which quota group a new one joins, none included, and so escape the quota. A seccomp profile has to deny them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hostler.contracts.driver import Item, Lack, Probe
from hostler.contracts.storage import IdmapMount, RootPlan, StorageCapabilities, VolumeUsage
from hostler.core.errors import Conflict
from hostler.host import btrfs, loop, mounts, qgroups
from hostler.host.failures import explained
from hostler.host.qgroups import Mode
from hostler_plugins.storage.btrfs_parts import FULL_HINT, BtrfsSettings, no_volume
from hostler_plugins.storage.btrfs_snapshots import BtrfsSnapshots
from hostler_plugins.storage.filling import fill_image
from hostler_plugins.storage.layout import draft_of
from hostler_plugins.storage.locks import locked

__all__ = ["Btrfs", "BtrfsSettings"]


class Btrfs(BtrfsSnapshots):
    """Driver ``btrfs``."""

    @property
    def capabilities(self) -> StorageCapabilities:
        """Quotas, and changing them live. Snapshots need simple quotas: full ones count nothing that two subvolumes share, so
        a volume's snapshot would set it free of its limit."""
        simple = self._counts_simply()
        return StorageCapabilities(quota=True, live_resize=True, snapshot=simple, send=simple, send_delta=simple)

    def probe(self) -> Probe:
        """Whether there is a btrfs, or what it takes to make one, and how it counts."""
        if not mounts.kernel_has("btrfs"):
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
        with explained(f"set up the pool {self._pool}", full=FULL_HINT):
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
                with explained(f"add image {image}", full=FULL_HINT):
                    self._destroy(parent, draft_of(image))
                    self._with_room(parent, lambda: btrfs.create(parent, draft_of(image)))
                try:
                    fill_image(image, folder.with_name(draft_of(image)), fill, FULL_HINT)
                    with explained(f"add image {image}", full=FULL_HINT):
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
            with explained(f"remove image {image}", full=FULL_HINT), btrfs.opened(folder.parent) as parent:
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
                explained(f"create volume {volume}", full=FULL_HINT),
                self._image(origin) as source,
                self._folder(folder.parent) as parent,
            ):
                if qgroups.mode(parent) is Mode.SIMPLE:
                    self._with_room(parent, lambda: self._create_grouped(source, parent, volume, size))
                else:
                    self._with_room(parent, lambda: self._create_alone(source, parent, volume, size))

    def _create_grouped(self, source: int, parent: int, volume: str, size: int | None) -> None:
        with locked(self._locks, "groups", shared=True):
            group = self._new_group(parent, size)
            try:
                btrfs.snapshot(source, parent, volume, group=group)
            except BaseException:
                self._drop_group(parent, group)
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
        """As the contract says; its snapshots and what is nested in it go too. The kernel frees the space soon after."""
        folder = self._layout.volume(volume)
        with self._alone("volume", volume), explained(f"delete volume {volume}", full=FULL_HINT):
            if folder.parent.is_dir():
                with btrfs.opened(folder.parent) as parent:
                    self._destroy(parent, draft_of(volume))
                    self._delete_snapshots(volume)
                    self._destroy(parent, volume)
                    self._reap(parent)

    def resize(self, volume: str, size: int | None) -> None:
        """As the contract says."""
        folder = self._layout.volume(volume)
        with self._alone("volume", volume):
            if not btrfs.is_subvolume(folder):
                raise no_volume(volume)
            self._set_size(volume, size)

    def usage(self, volume: str) -> VolumeUsage:
        """What the quota counts; files just deleted count until the next commit (30 s, or sooner)."""
        with self._opened(volume) as inside, explained(f"measure volume {volume}"):
            charge = self._charge(inside)
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


def _lacks_for_file() -> list[Lack]:
    lacks = []
    if shutil.which("mkfs.btrfs") is None:
        lacks.append(Lack(what="mkfs.btrfs is missing", remedy="apt-get install btrfs-progs", blocks=True))
    if not Path("/dev/loop-control").exists():
        lacks.append(Lack(what="the kernel has no loop devices", remedy="modprobe loop", blocks=True))
    return lacks
