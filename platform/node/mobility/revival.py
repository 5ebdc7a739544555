"""Bringing a container back from images: first held, then let go. Both sides of a move, and every restore, end here."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hostler.contracts.limits import Cgroup
from hostler.core.errors import Conflict
from hostler.core.specs import ContainerSpec
from hostler.core.units import MIB
from hostler.node.mobility.standstill import hold_to_limits
from hostler.node.mobility.stopwatch import Stopwatch
from hostler.node.verbs import Server

#: What CRIU needs beside the container, whose cgroups it works in.
_ROOM_FOR_CRIU, _PIDS_FOR_CRIU = 64 * MIB, 64


@dataclass(frozen=True)
class Revived:
    """A container that was brought back and is held."""

    pid: int
    started_at: int | None
    milliseconds: float
    phases: dict[str, float]
    """What they went into."""


def images_of(server: Server, container: str) -> Path:
    """The folder of the images that a container is being restored from; its name is the same for every try."""
    return server.host.state_dir / "revivals" / container / "images"


def clear(server: Server, container: str) -> None:
    """Forget the images of a restore; what is held over them ends. None is a success."""
    images = images_of(server, container)
    if images.parent.is_dir():
        server.drivers.checkpoint().abandon(images)
        server.drivers.checkpoint().end_following(images)
        shutil.rmtree(images.parent)


def fresh(server: Server, container: str) -> Path:
    """An empty folder for images."""
    clear(server, container)
    images = images_of(server, container)
    images.mkdir(parents=True, mode=0o700)
    return images


def revive(server: Server, spec: ContainerSpec, *, close_connections: bool = False, memory: int | None = None) -> Revived:
    """Bring a container back from :func:`images_of` on its volume, with its links; it is held, and its links are. Held already is a success.
    ``memory``: a socket from which its memory follows.

    On failure nothing of it is left but the images and the volume.
    """
    watch = Stopwatch()
    checkpoint, ns = server.drivers.checkpoint(), server.drivers.ns(spec.drivers.ns)
    images = images_of(server, spec.id)
    pid = checkpoint.held(images)
    if pid is None:
        with watch.phase("cgroup"):
            cgroup = make_cgroup(server, spec)
        try:
            with watch.phase("place"):
                plan = server.drivers.storage(spec.drivers.storage).root_plan(spec.id)
                landing = ns.land(spec, plan, cgroup)
            with watch.phase("restore"):
                pid = checkpoint.restore(
                    landing, images, lambda init: _furnish(server, spec, init, watch), close_connections=close_connections, memory=memory
                )
        except BaseException:
            undo(server, spec)
            raise
    sandbox = ns.adopt(spec.id, pid)
    return Revived(pid, sandbox.started_at, watch.total, watch.phases)


def make_cgroup(server: Server, spec: ContainerSpec) -> Cgroup:
    """The container's cgroups, with room for CRIU, which works in them; :func:`let_go` holds it to its own limits. There already is a success."""
    limits = spec.limits.model_copy(
        update={
            "cpu": None,
            "memory": spec.limits.memory and spec.limits.memory + _ROOM_FOR_CRIU,
            "pids": spec.limits.pids and spec.limits.pids + _PIDS_FOR_CRIU,
        }
    )
    return server.drivers.limits(spec.drivers.limits).create(spec.id, limits, spec.account, spec.account_weight)


def _furnish(server: Server, spec: ContainerSpec, init: int, watch: Stopwatch) -> None:
    with watch.phase("network"):
        server.drivers.ns(spec.drivers.ns).furnish(spec.id, init)
        for link in spec.links:
            server.drivers.net(spec.drivers.net).attach(spec.id, link, init, held=True)


def let_go(server: Server, spec: ContainerSpec) -> dict[str, float]:
    """Let what :func:`revive` holds run, its packets flow, its limits hold; what each took. Let go already is a success.

    Raises :class:`Conflict` when nothing is held and nothing runs.
    """
    checkpoint, images = server.drivers.checkpoint(), images_of(server, spec.id)
    state = server.drivers.ns(spec.drivers.ns).inspect(spec.id).state
    if not images.is_dir() and state == "running":
        return {}
    if state not in ("running", "frozen"):
        raise Conflict(f"no restored container {spec.id} is held here", hint="restore it again", code="not_held")
    watch = Stopwatch()
    if spec.links:
        with watch.phase("open"):  # first: what a process sends into a held link is lost
            server.drivers.net(spec.drivers.net).release(spec.id)
    with watch.phase("run"):
        checkpoint.release(images)
    with watch.phase("limits"):
        hold_to_limits(server, spec)
        server.nudge(spec.id)
    return watch.phases


def undo(server: Server, spec: ContainerSpec) -> None:
    """Take down what :func:`revive` made, but the images and the volume. Nothing is a success."""
    server.drivers.checkpoint().abandon(images_of(server, spec.id))
    server.drivers.net(spec.drivers.net).detach(spec.id)
    server.drivers.ns(spec.drivers.ns).delete(spec.id)
    server.drivers.limits(spec.drivers.limits).remove(spec.id)
