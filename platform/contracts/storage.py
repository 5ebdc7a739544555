"""Volumes: the root file systems of containers, and the unpacked images they are made from.

Files on a volume are owned by ids 0 … 65535, never by the container's host ids: :meth:`Storage.root_plan` says
how to mount it so that they are shifted (``mount_setattr(2)``, MOUNT_ATTR_IDMAP).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver
from hostler.core.errors import Unsupported


class StorageCapabilities(Capabilities):
    """What a storage driver may be able to do."""

    quota: bool = False
    """A volume's size is enforced by the kernel: a write past it gives ENOSPC or EDQUOT."""
    live_resize: bool = False
    snapshot: bool = False
    """:meth:`Storage.snapshot`, ``snapshots``, ``delete_snapshot``, ``rollback`` and ``clone``."""
    send: bool = False
    """:meth:`Storage.send` and ``receive`` of a whole snapshot."""
    send_delta: bool = False
    """``send`` of what changed since an earlier snapshot that both sides have."""


class IdmapMount(BaseModel):
    """Bind ``source`` to ``target`` with ids shifted into the container's user namespace."""

    kind: Literal["idmap"] = "idmap"
    source: Path
    target: str
    """Relative to a private scratch folder of the ns driver; ``root`` is the container's root."""


class OverlayMount(BaseModel):
    """Mount an overlay at ``target``. Paths are relative to the same scratch folder."""

    kind: Literal["overlay"] = "overlay"
    lower: list[str]
    upper: str
    work: str
    target: str


class RootPlan(BaseModel):
    """Mounts to make, in order, in a private mount namespace; afterwards ``root`` is the root file system."""

    mounts: list[IdmapMount | OverlayMount]


class VolumeUsage(BaseModel):
    """Bytes in use and the limit (None: no limit is enforced)."""

    used: int
    limit: int | None
    inodes: int | None = None
    """Files, folders and links; None where counting them would mean reading them all."""


class Snapshot(BaseModel):
    """The files of a volume at one instant. ``id`` is the same on every server that has it."""

    id: str
    created_at: float
    """Seconds since 1970."""


class Storage(Driver):
    """Contract of group ``hostler.storage``."""

    group: ClassVar[str] = "storage"

    @property
    @abstractmethod
    def capabilities(self) -> StorageCapabilities: ...

    @abstractmethod
    def has_image(self, image: str) -> bool:
        """Whether image ``image`` (its short digest) is unpacked here, whole."""

    @abstractmethod
    def add_image(self, image: str, fill: Callable[[Path], None]) -> None:
        """Unpack an image once: ``fill`` is given an empty folder to write the files in.

        The image appears whole or not at all: a crash or an error of ``fill`` (which is passed on) leaves
        nothing. Two callers at once are safe; the second waits and finds it done. Raises :class:`NoRoom` on a full pool.
        """

    @abstractmethod
    def remove_image(self, image: str) -> None:
        """Forget an unpacked image; volumes made from it live on or it is refused with :class:`Conflict`."""

    @abstractmethod
    def create(self, volume: str, image: str, size: int | None) -> None:
        """A volume with the image's files, copy on write, held to ``size`` bytes of its own data.

        An existing volume of that name is kept as it is, its size set. Raises :class:`NotFound` when the image
        is not here, :class:`NoRoom` on a full pool.
        """

    @abstractmethod
    def delete(self, volume: str) -> None:
        """Delete a volume with all it holds; one that does not exist is a success."""

    @abstractmethod
    def resize(self, volume: str, size: int | None) -> None:
        """Set the limit, live. Below what is in use: :class:`Conflict`, and nothing changes.

        Without the capability ``quota`` every size but None raises :class:`Unsupported`... except at
        :meth:`create`, where the driver takes it as a wish and :meth:`usage` shows no limit.
        """

    @abstractmethod
    def usage(self, volume: str) -> VolumeUsage:
        """Raises :class:`NotFound` when there is no such volume."""

    @abstractmethod
    def root_plan(self, volume: str) -> RootPlan:
        """How to mount the volume as a container's root. What that needs on the host stays until :meth:`detach`."""

    def detach(self, volume: str) -> None:
        """No container uses the volume any more: let go what :meth:`root_plan` made on the host. A volume that is not in use, or does
        not exist, is a success."""

    @abstractmethod
    def free(self) -> tuple[int, int]:
        """Bytes free and total of the pool."""

    # --- by capability: a driver without it inherits the refusal ---

    def _refuse(self, what: str) -> Unsupported:
        return Unsupported(
            f"storage driver {self.name} cannot {what} here", hint="hostler plugins shows which driver can", code="unsupported"
        )

    def snapshot(self, volume: str, snapshot: str) -> Snapshot:
        """Keep the volume's files as they are at one instant, while it is in use. One of that id is kept as it is."""
        raise self._refuse("snapshot")

    def snapshots(self, volume: str) -> list[Snapshot]:
        """All snapshots of a volume, oldest first. Raises :class:`NotFound` when there is no such volume."""
        raise self._refuse("snapshot")

    def delete_snapshot(self, volume: str, snapshot: str) -> None:
        """Forget a snapshot; none is a success. Later ones, and differences since them, are untouched."""
        raise self._refuse("snapshot")

    def rollback(self, volume: str, snapshot: str) -> None:
        """Make the volume what it was at the snapshot. It must not be mounted by a container (:class:`Conflict`). The snapshot stays."""
        raise self._refuse("roll back")

    def clone(self, volume: str, snapshot: str, new: str, size: int | None) -> None:
        """A volume ``new`` with the snapshot's files, copy on write where the driver can, held to ``size`` bytes."""
        raise self._refuse("clone")

    def send(self, volume: str, snapshot: str, out: BinaryIO, *, since: str | None = None) -> None:
        """Write a snapshot as a stream that :meth:`receive` of the same driver understands on any server.

        ``since``: only what changed after that earlier snapshot, which the receiver must have.
        """
        raise self._refuse("send")

    def receive(self, volume: str, snapshot: str, source: BinaryIO, size: int | None) -> None:
        """Make or bring forward ``volume`` from a stream, with ``snapshot`` in its list afterwards.

        Whole or not at all: a stream that is cut, changed or for another base raises :class:`Invalid` and leaves the volume
        as it was. Streams are hostile: nothing outside the volume is ever written.
        """
        raise self._refuse("receive")

    def check(self, volume: str) -> list[str]:
        """What is wrong with a volume that is not in use, in words; empty when nothing is. Mends what a crash may leave.

        Raises :class:`NotFound` when there is no such volume."""
        self.usage(volume)
        return []
