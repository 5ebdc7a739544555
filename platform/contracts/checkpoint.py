"""Checkpoints: a container's processes, memory and connections as files, and back.

The ns driver says what a container looks like from outside (:class:`Shape`, ``Ns.shape``) and makes the place where one is brought
back to life (:class:`Landing`, ``Ns.land``); a checkpoint driver does the rest, whatever runtime made the container.

The life of a dump: the caller freezes the container and holds its network, :meth:`Checkpoint.dump` writes the images and leaves it frozen; the
caller then thaws it or kills it. The life of a restore: :meth:`Checkpoint.restore` brings the processes back up to the moment
before they run and **holds** them there, and they stay held should the caller die; :meth:`Checkpoint.release` lets them run,
:meth:`Checkpoint.abandon` ends them. Of two servers on which the same processes exist, at most one ever has them neither frozen nor held.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver
from hostler.core.errors import Unsupported
from hostler.core.specs import IdRange


class CheckpointCapabilities(Capabilities):
    """What a checkpoint driver may be able to do on this host."""

    pre_copy: bool = False
    """:meth:`Checkpoint.pre_dump`: memory is copied while the container runs, and later copies hold only what changed."""
    post_copy: bool = False
    """Memory follows after the container has been let run at its new place."""
    rename: bool = False
    """:meth:`Checkpoint.rename`: a clone with a name and addresses of its own."""


class Shape(BaseModel):
    """A container as it is seen from outside. Made by its ns driver."""

    container: str
    pid: int
    """Host pid of its init."""
    started_at: int
    """Start time of that process in clock ticks since boot."""
    cgroups: dict[str, str]
    """Hierarchy → absolute path of the container's cgroup folder."""
    outside: dict[str, str]
    """Mount point inside → a name, for all whose content belongs to the host: not part of a checkpoint, and bound anew where it is restored."""


class Landing(BaseModel):
    """A place where a container may be brought back to life. Made by its ns driver; nothing runs there yet."""

    container: str
    words: list[str]
    """A program that makes the root and joins the cgroups, then becomes what follows: the checkpoint driver's program."""
    root: Path
    """Where that program's successor finds the root file system mounted."""
    outside: dict[str, Path]
    """Name, as in :attr:`Shape.outside` → what is bound there on this host."""
    ids: IdRange | None = None
    """Host ids of the container's user namespace, which may be others than the images'; none: as the images have them."""


class Obstacle(BaseModel):
    """Why a container cannot be checkpointed as it is, in words."""

    code: str
    """Stable, lower case: ``outside_process``, ``device``, ``io_uring``, …"""
    message: str
    remedy: str = ""


class Renaming(BaseModel):
    """Who a container shall be that is restored from the images of another. Its host ids are its landing's."""

    hostname: str
    addresses: dict[str, str] = {}
    """Address of the original → the one in its place; empty: none."""


class DumpReport(BaseModel):
    """What a dump cost."""

    pages: int
    """Memory pages written, of 4096 bytes."""
    skipped: int = 0
    """Pages that an earlier dump already had."""
    bytes: int
    """Size of all images."""
    milliseconds: float


class Checkpoint(Driver):
    """Contract of group ``hostler.checkpoint``."""

    group: ClassVar[str] = "checkpoint"

    @property
    @abstractmethod
    def capabilities(self) -> CheckpointCapabilities: ...

    @property
    @abstractmethod
    def writer(self) -> str:
        """Name and version of what writes the images, such as ``criu 4.2.1``."""

    @abstractmethod
    def examine(self, shape: Shape) -> list[Obstacle]:
        """Every reason, found without touching the container, why :meth:`dump` would fail now. Empty: it should not."""

    @abstractmethod
    def dump(
        self, shape: Shape, images: Path, *, parent: Path | None = None, memory: int | None = None, halt: Callable[[], None] | None = None
    ) -> DumpReport:
        """Write the processes of a **frozen** container to the empty folder ``images``. It stays frozen, as it was, whatever the outcome.

        ``halt``: the container runs yet; this is called as late as can be, and it stands still when that returns. What ``halt`` raises is
        raised, and nothing was looked at. ``memory``: a connected stream socket: with capability ``post_copy`` the memory that can wait is not written but served there
        afterwards, for as long as it takes (:meth:`following`) and whatever becomes of the caller; the images hold the rest. When
        the socket closes early the processes are as they were, frozen. ``parent``: folder of the last :meth:`pre_dump`; memory that is unchanged since is not written again. Raises
        :class:`Conflict` (code ``cannot_checkpoint``) with the reason when the processes cannot be dumped.
        """

    @abstractmethod
    def restore(
        self, landing: Landing, images: Path, furnish: Callable[[int], None], *, close_connections: bool = False, memory: int | None = None
    ) -> int:
        """Bring the processes back and hold them before they run. The host pid of the init.

        ``memory``: the other end of what a dump serves on; the memory follows from there. ``close_connections``: TCP connections that were open come back closed, for a container whose peers have gone on without it.
        ``furnish`` is called with that pid as soon as its namespaces exist and before connections are restored: the network is to be made then.
        Any failure, one of ``furnish`` included, ends what was restored. The images are not changed, but for their
        host ids, which become the landing's. The
        folder must be on a file system that survives the caller: it holds who is held (:meth:`held`).
        """

    @abstractmethod
    def held(self, images: Path) -> int | None:
        """The init that is held over these images, or None: nothing is, or it was released."""

    @abstractmethod
    def was_released(self, images: Path) -> bool:
        """Whether what was held over these images was let run."""

    @abstractmethod
    def release(self, images: Path) -> None:
        """Let what is held run. Released already is a success. Raises :class:`Conflict` when nothing is held or it has ended."""

    @abstractmethod
    def abandon(self, images: Path) -> None:
        """End what is held or half restored over these images; nothing is a success. What was released is not touched."""

    # --- by capability: a driver without it inherits the refusal ---

    def _refuse(self, what: str) -> Unsupported:
        return Unsupported(f"checkpoint driver {self.name} cannot {what} here", hint="hostler plugins shows which driver can", code="unsupported")

    def following(self, images: Path) -> bool:
        """Whether memory is still being served, or filled in, over these images."""
        return False

    def end_following(self, images: Path) -> None:
        """End that; the socket has been closed, so that it is about to end by itself. A dump whose caller has died is waited for: it lets go of the
        processes, which are frozen then. None is a success."""

    def was_lost(self, images: Path) -> bool:
        """Whether memory that was to follow over these images did not all come. The container was ended then: what it would have read
        instead is zeros."""
        return False

    def pre_dump(self, shape: Shape, images: Path, *, parent: Path | None = None) -> DumpReport:
        """Write the memory of a running container to the empty folder ``images`` while it goes on, and note from then on what it changes."""
        raise self._refuse("copy memory before the freeze")

    def rename(self, images: Path, to: Renaming) -> None:
        """Make images of one container those of another, in place. Twice is once.

        Raises :class:`Conflict` (code ``cannot_clone``) where that cannot be, and then nothing is changed."""
        raise self._refuse("make a container of another one's checkpoint")
