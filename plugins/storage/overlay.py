"""Volumes as overlays: an image's folder below, a volume's own folder above. On any file system; held to a size where
that is ext4 or xfs mounted with project quotas (``prjquota``): then each volume is a project of its own, which the tenant cannot change.

``volumes/VOLUME`` holds ``upper``, ``work`` and ``image``, a link that names the image the volume stands on.

Both folders are id-mapped before the overlay is mounted on them, since an overlay itself cannot be (Linux ≥ 5.19).
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from hostler.contracts.driver import Host, Item, Lack, Probe, Settings
from hostler.contracts.storage import (
    IdmapMount,
    OverlayMount,
    RootPlan,
    Storage,
    StorageCapabilities,
    VolumeUsage,
)
from hostler.core.errors import Conflict, NoRoom, NotFound, Unsupported
from hostler.core.units import MIB, Size, format_size
from hostler.host import btrfs, mounts, projects
from hostler.host.failures import explained
from hostler_plugins.storage.filling import fill_image
from hostler_plugins.storage.layout import Layout, draft_of
from hostler_plugins.storage.locks import if_free, locked
from hostler_plugins.storage.trees import measure, remove_tree

_FULL_HINT = "delete containers or images on this server, or make its disk larger"


class OverlaySettings(Settings):
    """Where images and volumes are kept."""

    pool: Path | None = Field(default=None, description="folder on a disk file system; default: the node's state folder")
    reserve: Size = Field(default=256 * MIB, description="bytes that must be free for a new image or volume")
    usage_entries: int = Field(default=200_000, ge=1, description="files looked at to measure a volume; beyond, the least in use is told")


class Overlay(Storage):
    """Driver ``overlay``."""

    name: ClassVar[str] = "overlay"
    settings_model: ClassVar[type[Settings]] = OverlaySettings
    settings: OverlaySettings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._pool = self.settings.pool or self.folder / "pool"
        self._layout = Layout.of(self._pool, host)
        self._locks = self.folder / "locks"

    @property
    def capabilities(self) -> StorageCapabilities:
        """A quota, changed live, where the pool's file system enforces projects; else a volume may fill the disk."""
        enforced = self._enforced()
        return StorageCapabilities(quota=enforced, live_resize=enforced)

    def probe(self) -> Probe:
        """Makes an overlay in a scratch folder of the pool's file system, which is removed again."""
        place = _nearest(self._pool)
        try:
            _try_overlay(place)
        except OSError as error:
            kind = mounts.mount_holding(place).kind
            lack = Lack(
                what=f"no overlay can be made on {place} ({kind}): {error.strerror}",
                remedy="set `pool` to a folder on ext4, xfs or btrfs", blocks=True,
            )
            return Probe(lacks=[lack])
        kind = mounts.mount_holding(place).kind
        if self._enforced():
            return Probe(offers=[f"overlays on {kind}", "project quotas"])
        return Probe(offers=[f"overlays on {kind}"], lacks=[_lack_of_quota(kind)])

    def setup(self) -> None:
        """Make the folders, and remove what a crash left."""
        with explained(f"set up {self._layout.base}", full=_FULL_HINT):
            self._layout.make()
            for kind, folder in (("image", self._layout.images), ("volume", self._layout.volumes)):
                for thing in self._layout.drafts(folder):
                    with if_free(self._locks, f"{kind}-{thing}") as free:
                        if free:
                            self._discard(folder / draft_of(thing))

    def teardown(self) -> None:
        """Remove the images and our folders. Raises :class:`Conflict` while there are volumes."""
        volumes = self._layout.names(self._layout.volumes)
        if volumes:
            raise Conflict(f"{len(volumes)} volumes are left in {self._pool}", hint="delete their containers first")
        with explained(f"remove {self._layout.base}"):
            remove_tree(self._layout.base)
            remove_tree(self._locks)

    # --- images

    def has_image(self, image: str) -> bool:
        """One ``stat``."""
        return self._layout.image(image).is_dir()

    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        """As the contract says. The files are on disk before the image has its name: a power cut leaves a whole image or
        a draft, which the next :meth:`setup` or ``add_image`` removes."""
        folder = self._layout.image(image)
        draft = folder.with_name(draft_of(image))
        with locked(self._locks, f"image-{image}"):
            if folder.is_dir():
                return
            doing = f"add image {image}"
            with explained(doing, full=_FULL_HINT):
                remove_tree(draft)
                self._need_room()
                draft.mkdir()
            try:
                fill_image(image, draft, fill, _FULL_HINT)
                with explained(doing, full=_FULL_HINT):
                    _settle(draft, folder)
            except BaseException:
                remove_tree(draft)
                raise

    def remove_image(self, image: str) -> None:
        """Raises :class:`Conflict` while a volume stands on it."""
        folder = self._layout.image(image)
        draft = folder.with_name(draft_of(image))
        with locked(self._locks, f"image-{image}"), explained(f"remove image {image}"):
            users = [volume for volume in self._layout.names(self._layout.volumes) if self._image_of(volume) == image]
            if users:
                raise Conflict(
                    f"image {image} is in use by {len(users)} volumes, {users[0]} among them",
                    hint="delete their containers first", code="image_in_use",
                )
            remove_tree(draft)
            if folder.is_dir():
                folder.rename(draft)  # from here on it is a leftover, should this be interrupted
                remove_tree(draft)

    # --- volumes

    def create(self, volume: str, image: str, size: int | None) -> None:
        """As the contract says. Without project quotas ``size`` is not enforced: :meth:`usage` shows no limit."""
        folder, origin = self._layout.volume(volume), self._layout.image(image)
        draft = folder.with_name(draft_of(volume))
        with locked(self._locks, f"volume-{volume}"), locked(self._locks, f"image-{image}", shared=True):
            if folder.is_dir():
                self._set_size(folder, size)
                return
            if not origin.is_dir():
                raise NotFound(f"image {image} is not on this server", hint="add the image first", code="image_not_found")
            with explained(f"create volume {volume}", full=_FULL_HINT):
                self._discard(draft)
                self._need_room()
                try:
                    self._make_volume(draft, origin, size)
                    draft.rename(folder)
                except BaseException:
                    self._discard(draft)
                    raise

    def _make_volume(self, draft: Path, origin: Path, size: int | None) -> None:
        draft.mkdir(mode=0o700)
        draft.chmod(0o755)  # what is below is reached by the container's own ids; above, the driver's folders are closed
        if self._enforced():
            with btrfs.opened(draft) as inside:
                project = _free_project(inside)
                projects.limit(inside, project, size)
                projects.set_project(inside, project)
        _make_layers(draft, origin)

    def delete(self, volume: str) -> None:
        """As the contract says. Takes as long as deleting its files does."""
        folder = self._layout.volume(volume)
        draft = folder.with_name(draft_of(volume))
        with locked(self._locks, f"volume-{volume}"), explained(f"delete volume {volume}"):
            self._discard(draft)
            if folder.is_dir():
                folder.rename(draft)
                self._discard(draft)

    def resize(self, volume: str, size: int | None) -> None:
        """As the contract says. No size but None can be set without project quotas, or for a volume made before there were."""
        folder = self._must_exist(volume)
        if size is not None and self._project(folder) == 0:
            raise Unsupported(
                "the overlay driver cannot hold this volume to a size",
                hint="put containers that need a disk limit on the btrfs driver", code="no_quota",
            )
        with explained(f"resize volume {volume}", full=_FULL_HINT):
            self._set_size(folder, size)

    def usage(self, volume: str) -> VolumeUsage:
        """What the quota counts; without one, bytes on disk and files of what was written, counted one by one up to the setting
        ``usage_entries``."""
        folder = self._must_exist(volume)
        with explained(f"measure volume {volume}"):
            project = self._project(folder)
            if project:
                with btrfs.opened(folder) as inside:
                    count = projects.count(inside, project)
                return VolumeUsage(used=count.used, limit=count.limit, inodes=count.files)
            below = measure(folder / "upper", self.settings.usage_entries)
        return VolumeUsage(used=below.bytes, limit=None, inodes=below.entries if below.whole else None)

    def root_plan(self, volume: str) -> RootPlan:
        """Image and volume with ids shifted, and the overlay on them."""
        folder = self._must_exist(volume)
        return RootPlan(
            mounts=[
                IdmapMount(source=self._layout.image(self._image_of(volume)), target="image"),
                IdmapMount(source=folder, target="volume"),
                OverlayMount(lower=["image"], upper="volume/upper", work="volume/work", target="root"),
            ]
        )

    def free(self) -> tuple[int, int]:
        """Of the file system that the folders are on."""
        with explained(f"measure {self._pool}"):
            found = os.statvfs(_nearest(self._pool))
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def inventory(self) -> list[Item]:
        """Images, volumes, and drafts of both."""
        return self._layout.inventory("folder")

    # --- parts

    def _enforced(self) -> bool:
        return projects.enforced_on(mounts.mount_holding(_nearest(self._pool)))

    def _project(self, folder: Path) -> int:
        """The project of a volume; 0 when it has none, and is held to nothing."""
        if not self._enforced():
            return 0
        with btrfs.opened(folder) as inside:
            return projects.project_of(inside)

    def _set_size(self, folder: Path, size: int | None) -> None:
        project = self._project(folder)
        if project == 0:
            return
        with btrfs.opened(folder) as inside:
            used = projects.count(inside, project).used
            if size is not None and used > size:
                raise Conflict(
                    f"volume {folder.name} holds {format_size(used)}, more than {format_size(size)}",
                    hint="delete files in the container, or give it a larger size", code="below_use",
                )
            projects.limit(inside, project, size)

    def _discard(self, folder: Path) -> None:
        """Remove a volume or image, and forget the limit of its project; none is a success."""
        if not folder.is_dir():
            return
        project = self._project(folder)
        remove_tree(folder)
        if project:
            with btrfs.opened(folder.parent) as parent:
                projects.limit(parent, project, None)

    def _must_exist(self, volume: str) -> Path:
        folder = self._layout.volume(volume)
        if not folder.is_dir():
            raise NotFound(f"there is no volume {volume} on this server", hint="create it first", code="volume_not_found")
        return folder

    def _image_of(self, volume: str) -> str:
        try:
            return os.readlink(self._layout.volume(volume) / "image")
        except FileNotFoundError:
            return ""  # deleted meanwhile

    def _need_room(self) -> None:
        left = self.free()[0]
        if left < self.settings.reserve:
            raise NoRoom(
                f"the disk is full: {format_size(left)} are free, {format_size(self.settings.reserve)} are kept for the server",
                hint=_FULL_HINT, code="disk_full",
            )


def _free_project(fd: int) -> int:
    """A number that counts nothing and has no limit. Those below 2^30 are left to administrators."""
    while True:
        project = 1 << 30 | secrets.randbits(30)
        if projects.count(fd, project) == projects.Count(0, 0, None):
            return project


def _make_layers(draft: Path, origin: Path) -> None:
    """The image's name is a link, not a file: a power cut leaves the whole link or none, without waiting for the disk."""
    for name in ("upper", "work"):
        (draft / name).mkdir()
    root = origin.stat()
    os.chown(draft / "upper", root.st_uid, root.st_gid)
    (draft / "upper").chmod(root.st_mode & 0o7777)
    os.symlink(origin.name, draft / "image")


def _settle(draft: Path, folder: Path) -> None:
    """Give a draft its name, when all its files are on disk, and see the name to the disk."""
    with btrfs.opened(draft) as inside:
        btrfs.sync(inside)
    draft.rename(folder)
    with btrfs.opened(folder.parent) as parent:
        os.fsync(parent)


def _nearest(folder: Path) -> Path:
    """``folder``, or the nearest above it that exists."""
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _try_overlay(place: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".hostler-probe-", dir=place))
    try:
        for name in ("lower", "upper", "work"):
            (scratch / name).mkdir()
        with btrfs.opened(scratch) as inside:
            here = f"/proc/self/fd/{inside}"  # an option's value is at most 255 bytes, a path may be longer
            options = {"lowerdir": f"{here}/lower", "upperdir": f"{here}/upper", "workdir": f"{here}/work"}
            mounts.try_mount("overlay", options)
    finally:
        remove_tree(scratch)


def _lack_of_quota(kind: str) -> Lack:
    remedy = "use the btrfs driver where plans limit the disk"
    if kind in ("ext4", "xfs"):
        remedy = f"mount the {kind} with `prjquota`, or {remedy}"
    return Lack(what="a volume's size is not enforced: a container may fill the disk", remedy=remedy)
