"""A container at a standstill: frozen, and nothing gets in or out. And its guard.

While a container stands still for an operation, ``still.json`` in its folder says for which, and which worker answers for it. Should
that worker die, the node's watch lets the container go on within a second (:mod:`hostler.node.mobility.guard`), unless it was handed over to
another server or all of its memory is on disk: then it stays frozen, and the next worker takes it down.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from hostler.contracts.driver import Host
from hostler.contracts.net import Net
from hostler.contracts.ns import Ns
from hostler.core.errors import HostlerError
from hostler.core.specs import ContainerSpec
from hostler.host import guest
from hostler.host.pidfd import Identity
from hostler.node.verbs import Server


class Still(BaseModel):
    """Contents of ``still.json``."""

    operation: str
    pid: int
    started_at: int
    ns: str
    net: str
    """Empty for a container without links."""
    checkpoint: str = ""
    images: str = ""
    """Where its memory is being dumped to, by that driver."""
    on_disk: bool = False
    """All of its memory is in a checkpoint: it does not go on by itself, or what it did then would be lost."""

    @property
    def worker(self) -> Identity:
        """The worker that answers for it."""
        return Identity(self.pid, self.started_at)


def still_file(host: Host, container: str) -> Path:
    """Where a standstill is noted."""
    return host.container_dir(container) / "still.json"


def leaving(host: Host, container: str) -> Path:
    """The folder in which a move away from here keeps what it has yet to send. There from its first step to its end."""
    return host.state_dir / "revivals" / f"move-{container}"


def read_still(host: Host, container: str) -> Still | None:
    """Who holds a container at a standstill; None when nobody does."""
    try:
        return Still.model_validate_json(still_file(host, container).read_text())
    except FileNotFoundError:
        return None


@contextmanager
def alone(host: Host, container: str) -> Iterator[None]:
    """For the block nobody else begins or ends a standstill of the container: neither the worker nor the watch, which are two processes."""
    try:
        folder = os.open(host.container_dir(container), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # a container that is gone has no standstill
        yield
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def halt(server: Server, spec: ContainerSpec, operation: str, images: Path | None = None) -> None:
    """Bring a running container to a standstill, to be dumped to ``images``. On failure it goes on. Raises what the drivers raise."""
    me = Identity.of(os.getpid())
    assert me is not None
    note = Still(
        operation=operation, pid=me.pid, started_at=me.started_at, ns=spec.drivers.ns, net=spec.drivers.net if spec.links else "",
        checkpoint=min(server.drivers.loaded["checkpoint"], default=""), images=str(images or ""),
    )
    try:
        with alone(server.host, spec.id):
            guest.write_whole(still_file(server.host, spec.id), note.model_dump_json())
            server.nudge(spec.id)
            # In this order: what a process sent into a held link would be lost, and a restored socket waits long before it sends anew.
            server.drivers.ns(spec.drivers.ns).freeze(spec.id)
            if spec.links:
                server.drivers.net(spec.drivers.net).hold(spec.id)
    except BaseException:
        go_on(server, spec)
        raise


def stay(server: Server, spec: ContainerSpec) -> None:
    """Of a container at a standstill all is on disk now: whoever dies, it does not go on."""
    still = read_still(server.host, spec.id)
    assert still is not None
    guest.write_whole(still_file(server.host, spec.id), still.model_copy(update={"on_disk": True}).model_dump_json())


def go_on(server: Server, spec: ContainerSpec) -> None:
    """End a standstill: its processes run and its packets flow. None is a success; so is a container that is gone."""
    with alone(server.host, spec.id):
        set_going(server.host, spec.id, server.drivers.ns(spec.drivers.ns), server.drivers.net(spec.drivers.net) if spec.links else None)


def set_going(host: Host, container: str, ns: Ns, net: Net | None) -> None:
    """What :func:`go_on` does, for who is :func:`alone` with the container already."""
    try:
        if net is not None and ns.inspect(container).state in ("running", "frozen"):
            net.release(container)
    finally:
        ns.thaw(container)
    still_file(host, container).unlink(missing_ok=True)


@contextmanager
def unhurried(server: Server, spec: ContainerSpec) -> Iterator[None]:
    """For the block the container has all the CPU it likes: the code that CRIU runs in its processes, and CRIU itself where it is restored,
    must not wait until a quota is filled up again. Its limits hold again afterwards, if it is still there."""
    limits = server.drivers.limits(spec.drivers.limits)
    if spec.limits.cpu is None:
        yield
        return
    limits.apply(spec.id, spec.limits.model_copy(update={"cpu": None}))
    try:
        yield
    finally:
        hold_to_limits(server, spec)


def hold_to_limits(server: Server, spec: ContainerSpec) -> None:
    """Its limits hold; a container that is gone has none."""
    try:
        server.drivers.limits(spec.drivers.limits).apply(spec.id, spec.limits)
    except HostlerError as error:
        if error.stable_code not in ("not_found", "no_cgroup"):
            raise
