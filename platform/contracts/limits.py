"""Limits: cgroups that hold a container to its plan, and what they counted."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import BaseModel

from hostler.contracts.driver import Capabilities, Driver
from hostler.core.limits import Limits, Usage


class LimitsCapabilities(Capabilities):
    """Which parts of the intent the host's kernel can enforce."""

    cpu: bool = False
    cpu_weight: bool = False
    cpus: bool = False
    memory: bool = False
    memory_guarantee: bool = False
    swap: bool = False
    pids: bool = False
    io_weight: bool = False
    io_rate: bool = False


class Cgroup(BaseModel):
    """A container's cgroup, for the runtime that puts processes in it."""

    path: str
    """OCI ``cgroupsPath``, relative to the cgroup of the process that starts the runtime."""
    parents: dict[str, str]
    """Hierarchy (``memory``, ``cpu``, …, or ``unified``) → absolute path of the container's cgroup folder."""


class LimitsDriver(Driver):
    """Contract of group ``hostler.limits``."""

    group: ClassVar[str] = "limits"

    @property
    @abstractmethod
    def capabilities(self) -> LimitsCapabilities: ...

    @abstractmethod
    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        """Make the container's cgroups, with the limits set before any process is in them. Existing ones are kept and updated.

        The containers of an ``account`` lie in one cgroup, which is made with its first and goes with its last: processors are shared
        among accounts by ``account_weight`` first (1 to 10000, updated at each call), then within the account by ``limits.cpu_weight``.
        So a busy account with ten containers gets no more than one with one. Without an account the container stands by itself.
        """

    @abstractmethod
    def apply(self, container: str, limits: Limits) -> None:
        """Change the limits of a running container. All or nothing: on an error the former limits hold again.

        A memory limit below what is in use is reclaimed if the kernel can, else refused with
        :class:`Conflict`. Raises :class:`NotFound` without the cgroup.
        """

    @abstractmethod
    def usage(self, container: str) -> Usage:
        """Counters and marks (disk and net fields stay 0). Raises :class:`NotFound` without the cgroup."""

    @abstractmethod
    def oom_kills(self, container: str) -> int:
        """How many processes the memory limit has killed; one file read, for watching many containers."""

    @abstractmethod
    def processes(self, container: str) -> list[int]:
        """Host pids inside, in all sub-cgroups; empty without the cgroup."""

    @abstractmethod
    def remove(self, container: str) -> None:
        """Kill what is inside, wait for it to end, remove the cgroups and all below them; none is a success."""
