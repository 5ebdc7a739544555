"""Volumes: the root file systems of containers, and the unpacked images they are made from.

Files on a volume are owned by ids 0 … 65535, never by the container's host ids: :meth:`Storage.root_plan` says
how to mount it so that they are shifted (``mount_setattr(2)``, MOUNT_ATTR_IDMAP).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver


class StorageCapabilities(Capabilities):
    """What a storage driver may be able to do."""

    quota: bool = False
    """A volume's size is enforced by the kernel: a write past it gives ENOSPC or EDQUOT."""
    live_resize: bool = False
    snapshot: bool = False
    send: bool = False
    send_delta: bool = False


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
        """How to mount the volume as a container's root."""

    @abstractmethod
    def free(self) -> tuple[int, int]:
        """Bytes free and total of the pool."""
