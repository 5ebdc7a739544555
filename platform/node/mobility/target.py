"""The side of a move that a container comes to.

An :class:`Arrival` is made by ``move.prepare`` and served by the wire's threads. What must survive the worker is on the disk: the volume, the
images once they are whole (``whole``), and CRIU, which waits for an answer by itself (:mod:`hostler_plugins.checkpoint.held`).
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from hostler.core.errors import Conflict, HostlerError, Unavailable
from hostler.core.specs import ContainerSpec
from hostler.node import points
from hostler.node.container_verbs import remember
from hostler.node.mobility import checkpoints, following, output, revival
from hostler.node.mobility.carrier import Carrier, Errand
from hostler.node.mobility.moves import (
    CONTROL,
    PATIENCE,
    ROUND_PATIENCE,
    SIGN_OF_LIFE,
    VOLUME,
    Go,
    Ready,
    Restored,
    Round,
    Running,
    Start,
)
from hostler.node.verbs import Server
from hostler.node.wire.address import parse, written
from hostler.node.wire.channel import Channel

log = structlog.get_logger()

#: Seconds until S must have begun.
_LIFETIME = 300.0
_PIECE = 1 << 20
#: Seconds until whoever serves a connection that was hung up has ended: a restore may be under way.
_ENDING = 60.0
#: Seconds that memory may take to follow.
_FOLLOWING = 6 * 3600.0
#: Bytes of images at most: a container's memory and what CRIU says of it.
_IMAGES_AT_MOST = 1 << 42


class Busy:
    """Counts those who are inside."""

    def __init__(self) -> None:
        self._inside = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Until nobody is, for so many seconds at most; whether nobody is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, seconds)


@dataclass
class Arrival:
    """A container on its way here."""

    server: Server
    spec: ContainerSpec
    operation: str
    _bulk: threading.Event = field(default_factory=threading.Event)
    _changes: threading.Event = field(default_factory=threading.Event)
    _failures: list[BaseException] = field(default_factory=list)
    _start: Start | None = None
    _served: Busy = field(default_factory=Busy)
    _ticket: tuple[str, str] | None = None
    """Fingerprint of S and the secret that both were told."""

    def serve(self, channel: Channel) -> None:
        """One connection of S, in a thread of its own."""
        with self._served, structlog.contextvars.bound_contextvars(operation=self.operation, target=self.spec.id):
            if channel.stream == VOLUME:
                self._volume(channel)
            else:
                self._control(channel)

    def wait(self, seconds: float) -> None:
        """Until nobody serves a connection of S any more: two threads would be at the same files."""
        self._served.wait(seconds)

    # --- files

    def _volume(self, channel: Channel) -> None:
        """The volume's snapshots as they come: whole, then what changed. Then the log."""
        storage = self.server.drivers.storage(self.spec.drivers.storage)
        try:
            for done in (self._bulk, self._changes):
                word = channel.receive(_LIFETIME, "snapshot", "end")
                if word.kind == "snapshot":
                    with io.BufferedReader(channel.receive_stream(), _PIECE) as stream:
                        storage.receive(self.spec.id, str(word.fields["name"]), stream, self.spec.limits.disk)
                        stream.read()  # the wire's own end, which a driver does not know of
                    channel.send("received")
                done.set()
                if word.kind == "end":
                    break
            output.receive(self.server.host, self.spec.id, channel)
        except BaseException as error:
            self._failures.append(error)
            raise
        finally:
            self._bulk.set()
            self._changes.set()

    def _until(self, event: threading.Event) -> None:
        if not event.wait(PATIENCE):
            raise Unavailable("the volume did not arrive", hint="is the network between the servers broken?", code="wire_cut")
        if self._failures:
            raise self._failures[0]

    # --- memory

    def _control(self, channel: Channel) -> None:
        start = channel.receive(PATIENCE, "start").parse(Start)
        self._start = start
        if start.snapshots:
            while not self._bulk.wait(1):
                channel.send("receiving")
            self._until(self._bulk)
        if start.checkpoint is not None:
            with channel.receive_stream() as stream:
                checkpoints.take_in(self.server, stream, _IMAGES_AT_MOST)
        self._passing("volume")
        if not start.live:
            channel.send("ready", Ready())
            self._until(self._changes)
            channel.send("received")
            return
        carrier, ready = self._carrier(start)
        try:
            channel.send("ready", ready)
            self._arrive(channel, start, carrier)
        except BaseException:
            if carrier is not None:
                carrier.stop()
            raise

    def _carrier(self, start: Start) -> tuple[Carrier | None, Ready]:
        """Who fetches the memory that follows, if it is to."""
        wire = self.server.wire
        if not start.memory_follows or wire is None or self._ticket is None:
            return None, Ready()
        if not self.server.drivers.checkpoint().capabilities.post_copy:
            return None, Ready(why=f"server {self.server.host.node} cannot take memory later: hostler plugins tells why")
        try:
            carrier = Carrier(
                Errand(
                    folder=self.server.host.state_dir / "wire", node=self.server.host.node, listen=written(parse(wire.address)[0], 0),
                    operation=self.operation, peer=self._ticket[0], secret=self._ticket[1],
                )
            )
        except HostlerError as error:
            return None, Ready(why=error.message)
        return carrier, Ready(memory=carrier.said.address)

    def _passing(self, point: str) -> None:
        points.passing(self.server.host, f"in.{point}")

    def _arrive(self, channel: Channel, start: Start, carrier: Carrier | None) -> None:
        images = revival.fresh(self.server, self.spec.id)
        images.rmdir()
        revival.make_cgroup(self.server, self.spec)
        while (word := channel.receive(ROUND_PATIENCE, "round", "frozen")).kind == "round":
            _take_round(channel, images, word.parse(Round))
        with _signs_of_life(channel), following.expected(self.server, self.spec):
            self._passing("frozen")
            last = channel.receive(PATIENCE, "last").parse(Round)
            memory = carrier.criu.fileno() if carrier is not None and last.follows else None
            _take_round(channel, images, last)
            if start.snapshots:
                self._until(self._changes)
            if memory is None:
                _whole(images).touch()
            self._passing("whole")
            revived = revival.revive(self.server, self.spec, memory=memory)
            if carrier is not None:
                carrier.close()
            self._passing("restored")
        channel.send("restored", Restored(pid=revived.pid, milliseconds=revived.milliseconds, phases=revived.phases))
        self._passing("held")
        # A wire that is cut here decides nothing: what is restored stays held until the control side tells S's word.
        if (said := channel.receive(PATIENCE, "go", "abort")).kind == "abort":
            clean(self.server, self.spec)
            return
        following.bring(self.server, self.spec, said.parse(Go).packets)
        self._passing("go")
        began = time.monotonic()
        phases = land(self.server, self.spec)
        self._passing("running")
        channel.send("running", Running(milliseconds=round((time.monotonic() - began) * 1000, 1), phases=phases))


def _take_round(channel: Channel, images: Path, word: Round) -> None:
    """A folder of images beside the last one, and the link by which CRIU finds the one that it continues."""
    folder = images.with_name(word.name)
    channel.receive_folder(folder, limit=_IMAGES_AT_MOST)
    if word.parent is not None:
        (folder / "parent").symlink_to(f"../{word.parent}")


@contextmanager
def _signs_of_life(channel: Channel) -> Iterator[None]:
    """While inside, S is told that work goes on, so that it need not wait long to know that it does not."""
    ended = threading.Event()

    def body() -> None:
        while not ended.wait(SIGN_OF_LIFE):
            try:
                channel.send("restoring")
            except HostlerError:
                return  # whoever serves the channel is told too

    teller = threading.Thread(target=body, name="signs-of-life", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


#: Arrivals of this worker, by operation.
_ARRIVALS: dict[str, Arrival] = {}


def prepare(server: Server, spec: ContainerSpec, operation: str, peer: str, secret: str) -> None:
    """Expect a container. Whatever an earlier try has left of it is removed. Raises what keeps it from coming, in words."""
    if server.wire is None:
        raise Conflict(f"server {server.host.node} has no wire", hint="hostler doctor on the server tells why", code="no_wire")
    for group, name in (("ns", spec.drivers.ns), ("net", spec.drivers.net), ("storage", spec.drivers.storage), ("limits", spec.drivers.limits)):
        if name not in server.drivers.loaded[group]:
            raise Conflict(
                f"server {server.host.node} has no usable {group} driver {name}", hint="choose another server, or mend the driver: hostler plugins",
                code="does_not_fit",
            )
    if server.drivers.ns(spec.drivers.ns).inspect(spec.id).state in ("running", "frozen"):
        raise Conflict(f"container {spec.name} runs on server {server.host.node} already", hint="the store and the servers disagree: hostler audit", code="wrong_state")
    clean(server, spec)
    remember(server, spec)
    arrival = Arrival(server, spec, operation, _ticket=(peer, secret))
    _ARRIVALS[operation] = arrival
    server.wire.expect(operation, peer, arrival.serve, _LIFETIME, (CONTROL, VOLUME), secret)


def land(server: Server, spec: ContainerSpec) -> dict[str, float]:
    """The container belongs to this server: let it run, from what is held or else from the images again. Running already is a success."""
    if server.journal is not None:
        server.journal.take_back(spec.id)
    images, checkpoint = revival.images_of(server, spec.id), server.drivers.checkpoint()
    here = _runs(server, spec) and (not images.is_dir() or checkpoint.was_released(images))
    if not here and checkpoint.held(images) is None:
        if not _whole(images).exists():
            raise Conflict(
                f"the memory of container {spec.name} did not survive on server {server.host.node}", code="memory_lost",
                hint="its files are whole: hostler start brings it up anew",
            )
        revival.undo(server, spec)
        revival.revive(server, spec)
    return revival.let_go(server, spec)


def settle(server: Server, spec: ContainerSpec, operation: str) -> dict[str, Any] | None:
    """After a move: what only the move needed is removed, and the container runs; one that came without memory does not."""
    points.passing(server.host, "in.settle")
    _end_serving(server, operation)
    live = revival.images_of(server, spec.id).parent.is_dir() or _runs(server, spec)
    found: dict[str, Any] | None = None
    if live:
        land(server, spec)
        sandbox = server.drivers.ns(spec.drivers.ns).inspect(spec.id)
        found = {"pid": sandbox.pid, "started_at": sandbox.started_at}
        _until_memory_is_here(server, spec)
    if server.journal is not None:
        server.journal.take_back(spec.id)
    revival.clear(server, spec.id)
    return found


def _end_serving(server: Server, operation: str) -> None:
    """S is not listened to any more, and whoever did has ended."""
    arrival = _ARRIVALS.pop(operation, None)
    if server.wire is not None:
        server.wire.hang_up(operation)
    if arrival is not None:
        arrival.wait(_ENDING)


def _until_memory_is_here(server: Server, spec: ContainerSpec) -> None:
    """After a post-copy the memory may still be on its way. Raises :class:`Conflict` (``memory_lost``) when not all of it came."""
    images, checkpoint = revival.images_of(server, spec.id), server.drivers.checkpoint()
    deadline = time.monotonic() + _FOLLOWING
    while checkpoint.following(images) and time.monotonic() < deadline:
        time.sleep(0.05)
    if checkpoint.was_lost(images):
        raise Conflict(
            f"not all memory of container {spec.name} followed it to server {server.host.node}", code="memory_lost",
            hint="it was ended, its files are whole: hostler start brings it up anew",
        )


def discard(server: Server, spec: ContainerSpec, operation: str) -> None:
    """The move came to nothing: nothing of the container stays here."""
    _end_serving(server, operation)
    clean(server, spec)


def clean(server: Server, spec: ContainerSpec) -> None:
    """Remove all of a container from this server, whatever state it is in. Nothing is a success."""
    points.passing(server.host, "clean")
    revival.clear(server, spec.id)
    revival.undo(server, spec)
    storage = server.drivers.storage(spec.drivers.storage)
    storage.detach(spec.id)
    storage.delete(spec.id)
    server.drivers.ns(spec.drivers.ns).forget(spec.id)


def _runs(server: Server, spec: ContainerSpec) -> bool:
    return server.drivers.ns(spec.drivers.ns).inspect(spec.id).state in ("running", "frozen")


def _whole(images: Path) -> Path:
    """Exists when all of a container's memory and files are here."""
    return images.with_name("whole")
