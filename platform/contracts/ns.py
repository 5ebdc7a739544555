"""Namespaces: a container's processes, isolated by an OCI runtime.

The life of a sandbox: ``create`` (namespaces exist, nothing of the tenant runs) → ``start`` → ``signal`` … → ``delete``.
Between create and start the network is attached, since the network namespace is owned by the
container's user namespace and made with it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import BaseModel

from hostler.contracts.checkpoint import Landing, Shape
from hostler.contracts.driver import Capabilities, Driver
from hostler.contracts.limits import Cgroup
from hostler.contracts.storage import RootPlan
from hostler.core.errors import Unsupported
from hostler.core.specs import ContainerSpec, ExecResult, ExecSpec


class NsCapabilities(Capabilities):
    """What an ns driver may be able to do."""

    user_namespace: bool = False
    seccomp: bool = False
    exec: bool = False
    freeze: bool = False
    checkpoint: bool = False
    """:meth:`Ns.shape`, :meth:`Ns.land`, :meth:`Ns.furnish` and :meth:`Ns.adopt`."""


class Sandbox(BaseModel):
    """What is seen of a container's processes."""

    state: Literal["absent", "created", "running", "frozen", "exited"]
    pid: int | None = None
    """Host pid of the container's init."""
    started_at: int | None = None
    """Start time of that pid in clock ticks since boot (field 22 of ``proc(5)`` stat), so that a reused pid is told apart."""
    exit_code: int | None = None


class Ns(Driver):
    """Contract of group ``hostler.ns``."""

    group: ClassVar[str] = "ns"

    @property
    @abstractmethod
    def capabilities(self) -> NsCapabilities: ...

    @abstractmethod
    def create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Sandbox:
        """Make the namespaces and the paused init. A sandbox that is created or running already is returned as it is;
        one that exited is removed and made anew. A failure leaves no process and no file."""

    @abstractmethod
    def start(self, container: str) -> None:
        """Let init run. Already running is a success; :class:`NotFound` without a sandbox."""

    @abstractmethod
    def inspect(self, container: str) -> Sandbox:
        """What is there now; never raises for an absent one."""

    @abstractmethod
    def signal(self, container: str, signal: int) -> None:
        """Signal init. One that is gone is a success."""

    @abstractmethod
    def wait(self, container: str, timeout: float) -> Sandbox:
        """Wait up to ``timeout`` seconds for init to end, and say what is seen then. Never raises for time."""

    @abstractmethod
    def exec(self, container: str, command: ExecSpec) -> ExecResult:
        """Run a command inside, in all of its namespaces and its cgroup, with its confinement.

        Raises :class:`Conflict` unless running, :class:`Invalid` when the command cannot be started. At the
        time limit all its processes are killed and ``timed_out`` is set."""

    @abstractmethod
    def delete(self, container: str) -> None:
        """Kill every process and remove all files of the sandbox; none is a success. The log is removed with
        the container by :meth:`forget`, not here."""

    @abstractmethod
    def forget(self, container: str) -> None:
        """Remove the container's folder on this host, logs included; none is a success."""

    # --- by capability: a driver without it inherits the refusal ---

    def _refuse(self, what: str) -> Unsupported:
        return Unsupported(f"ns driver {self.name} cannot {what} here", hint="hostler plugins shows which driver can", code="unsupported")

    def freeze(self, container: str) -> None:
        """Stop every process of the container in its tracks, memory kept; frozen already is a success. Raises :class:`Conflict` unless running."""
        raise self._refuse("freeze")

    def thaw(self, container: str) -> None:
        """End :meth:`freeze`; not frozen is a success."""
        raise self._refuse("freeze")

    def shape(self, container: str) -> Shape:
        """What a checkpoint driver must know of a running or frozen container. Raises :class:`Conflict` for any other."""
        raise self._refuse("have a container checkpointed")

    def land(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Landing:
        """Make the place for a container that is restored. What was there of it before is removed as by :meth:`delete`; one that
        is created, running or frozen raises :class:`Conflict`. Undone by :meth:`delete`."""
        raise self._refuse("have a container restored")

    def furnish(self, container: str, pid: int) -> None:
        """Set in the fresh namespaces of a restored init what :meth:`create` would have set there. Before its links are attached."""
        raise self._refuse("have a container restored")

    def adopt(self, container: str, pid: int) -> Sandbox:
        """Take ``pid``, restored at the place that :meth:`land` made, for the container's init. From here on all verbs work as after
        :meth:`start`. Raises :class:`Conflict` when that process has ended."""
        raise self._refuse("have a container restored")
