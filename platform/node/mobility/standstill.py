"""A container at a standstill: frozen, and nothing gets in or out. And its guard.

While a container stands still for an operation, ``still.json`` in its folder says for which, and which worker answers for it. Should
that worker die, the node's watch lets the container go on within a second, unless it was handed over to another server
(:mod:`hostler.node.mobility.handovers`): then it stays frozen for good, and the next worker removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from hostler.contracts.driver import Host
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

    @property
    def worker(self) -> Identity:
        """The worker that answers for it."""
        return Identity(self.pid, self.started_at)


def still_file(host: Host, container: str) -> Path:
    """Where a standstill is noted."""
    return host.container_dir(container) / "still.json"


def read_still(host: Host, container: str) -> Still | None:
    """Who holds a container at a standstill; None when nobody does."""
    try:
        return Still.model_validate_json(still_file(host, container).read_text())
    except FileNotFoundError:
        return None


def halt(server: Server, spec: ContainerSpec, operation: str) -> None:
    """Bring a running container to a standstill. On failure it goes on. Raises what the drivers raise."""
    me = Identity.of(os.getpid())
    assert me is not None
    note = Still(operation=operation, pid=me.pid, started_at=me.started_at, ns=spec.drivers.ns, net=spec.drivers.net)
    guest.write_whole(still_file(server.host, spec.id), note.model_dump_json())
    server.nudge(spec.id)
    try:
        if spec.links:
            server.drivers.net(spec.drivers.net).hold(spec.id)
        server.drivers.ns(spec.drivers.ns).freeze(spec.id)
    except BaseException:
        go_on(server, spec)
        raise


def go_on(server: Server, spec: ContainerSpec) -> None:
    """End a standstill: its processes run and its packets flow. None is a success; so is a container that is gone."""
    try:
        server.drivers.ns(spec.drivers.ns).thaw(spec.id)
    finally:
        if spec.links and server.drivers.ns(spec.drivers.ns).inspect(spec.id).state in ("running", "frozen"):
            server.drivers.net(spec.drivers.net).release(spec.id)
    still_file(server.host, spec.id).unlink(missing_ok=True)


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
