"""The side of a move that a container leaves.

Until "handed over" is written in the journal, whatever goes wrong ends with the container running here as before. From then on it
never runs here again: its processes are killed while they are still frozen, before the other side is told to go.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from hostler.core.errors import Conflict, HostlerError, Timeout, Unavailable
from hostler.core.messages import WireFact
from hostler.core.specs import ContainerSpec
from hostler.mobility import rounds
from hostler.mobility.methods import Method, choose
from hostler.node import points
from hostler.node.journal import Journal
from hostler.node.mobility import checkpoints, following, hooks, output
from hostler.node.mobility.beside import Beside
from hostler.node.mobility.carrier import PID_FILE, Carrier, Errand, break_off
from hostler.node.mobility.moves import (
    CONTROL,
    NOTICE,
    PATIENCE,
    RESTORE_PATIENCE,
    SILENCE,
    VOLUME,
    Go,
    Ready,
    Restored,
    Round,
    Running,
    Start,
)
from hostler.node.mobility.standstill import go_on, halt, hold_to_limits, leaving, still_file, unhurried
from hostler.node.verbs import Server
from hostler.node.wire.channel import Channel
from hostler.node.wire.tickets import Ticket

log = structlog.get_logger()

#: Seconds for the whole volume to travel.
_VOLUME_PATIENCE = 6 * 3600.0
#: Seconds for memory to follow.
_FOLLOWING = 6 * 3600.0


class _Changed(HostlerError):
    """A container that was looked at while it ran is another one now."""

    code = "changed"


class Departure:
    """One move of one container from here to ``peer``."""

    def __init__(self, server: Server, spec: ContainerSpec, operation: str, peer: WireFact, secret: str) -> None:
        self._server = server
        self._spec = spec
        self._operation = operation
        self._peer = peer
        self._ticket = Ticket(operation=operation, streams=(CONTROL, VOLUME), secret=secret)
        self._storage = server.drivers.storage(spec.drivers.storage)
        self._began = time.monotonic()
        self._phases: dict[str, float] = {}
        self._bytes = 0
        self._draft = _folder(server, spec)
        self._first, self._second = _snapshots(operation)
        self._rounds: list[rounds.Round] = []
        self._carrier: Carrier | None = None
        self._runs_there = False
        self._files: Beside | None = None
        self._frozen = 0.0
        self._why = ""

    # --- the whole of it

    def run(self, *, allowed: Collection[str], checkpoint: str | None = None) -> dict[str, Any]:
        """Move it; what it cost. ``allowed``: methods for a running one's memory; none: it does not run. Raises with the container
        as it was before."""
        live = bool(allowed)
        if not self._storage.capabilities.send_delta:
            raise Conflict(
                f"storage driver {self._spec.drivers.storage} cannot send volumes here", hint="hostler plugins shows which can", code="cannot_move"
            )
        if live:
            checkpoints.check(self._server, self._spec)
        self._draft.mkdir(parents=True, mode=0o700)
        self._server.nudge(self._spec.id)  # the watch gets ready: should this worker die, it lets the container go on
        try:
            with self._channel(CONTROL) as control, self._channel(VOLUME) as volume:
                return self._move(control, volume, self._choose(allowed) if live else None, checkpoint)
        finally:
            _tidy(self._server, self._spec, self._operation)

    def _choose(self, allowed: Collection[str]) -> Method:
        """How its memory is to travel; whether the target can is heard later."""
        can = self._server.drivers.checkpoint().capabilities
        able = [Method.STOP_COPY, *([Method.PRE_COPY] if can.pre_copy else []), *([Method.POST_COPY] if can.post_copy else [])]
        memory = self._server.drivers.limits(self._spec.drivers.limits).usage(self._spec.id).memory
        choice = choose(memory, allowed, able, list(Method))
        if choice is None:
            raise Conflict(
                f"server {self._server.host.node} can move this container by none of {', '.join(allowed)}", code="cannot_move",
                hint="hostler plugins shows what its checkpoint driver lacks; stop_copy needs least",
            )
        self._why = choice.why
        return choice.method

    def _move(self, control: Channel, volume: Channel, method: Method | None, checkpoint: str | None) -> dict[str, Any]:
        live, follows = method is not None, method is Method.POST_COPY
        control.send("start", Start(live=live, snapshots=True, checkpoint=checkpoint, memory_follows=follows))
        self._passing("start")
        with self._phase("volume"):
            self._send_volume(volume, self._first, None)
        if checkpoint is not None:
            with checkpoints.shelf(self._server).path_of(checkpoint).open("rb") as file:
                self._bytes += control.send_stream(file)
        ready = _until_ready(control)
        self._passing("ready")
        if method is None:
            volume.send("end")
            self._send_output(volume)
            control.receive(PATIENCE, "received")
            self._passing("received")
            self._hand_over()
            self._passing("handed-over")
            return self.report("files", None)
        if follows:
            method = self._begin_carrying(ready)
        elif method is Method.PRE_COPY:
            self._copy_before(control)
        frozen_ms = self._move_live(control, volume)
        self._until_followed()
        return self.report(method.value, frozen_ms)

    # --- memory before the freeze, or after it

    def _copy_before(self, control: Channel) -> None:
        """Rounds of a pre-copy, until the rule says that it is time."""
        checkpoint, ns = self._server.drivers.checkpoint(), self._server.drivers.ns(self._spec.drivers.ns)
        with self._phase("pre_copy"):
            while not self._rounds or (why := rounds.verdict(self._rounds)) is None:
                began, number = time.monotonic(), len(self._rounds)
                folder = self._draft / f"pre-{number}"
                folder.mkdir(mode=0o700)
                report = checkpoint.pre_dump(ns.shape(self._spec.id), folder, parent=self._last_round())
                self._send_images(control, "round", Round(name=folder.name, parent=self._parent()), folder)
                self._rounds.append(rounds.Round(report.pages, round((time.monotonic() - began) * 1000, 1)))
                self._passing(f"round-{number}")
        self._why = f"{self._why}; {why}"

    def _last_round(self) -> Path | None:
        return self._draft / f"pre-{len(self._rounds) - 1}" if self._rounds else None

    def _parent(self) -> str | None:
        last = self._last_round()
        return last.name if last is not None else None

    def _send_images(self, control: Channel, word: str, told: Round, folder: Path) -> None:
        control.send(word, told)
        self._bytes += control.send_folder(folder, leave_out=("dump.log", "parent")).bytes

    def _begin_carrying(self, ready: Ready) -> Method:
        """Have a carrier connected before the freeze. Where that cannot be, memory is copied in it."""
        why = ready.why or "the other server has no carrier"
        if ready.memory:
            try:
                self._carrier = Carrier(
                    Errand(
                        folder=self._server.host.state_dir / "wire", node=self._server.host.node, listen="", operation=self._operation,
                        peer=self._peer.fingerprint, secret=self._ticket.secret, to=ready.memory, pid_file=self._draft / PID_FILE,
                    )
                )
                return Method.POST_COPY
            except HostlerError as error:
                why = error.message
        self._why = f"memory cannot follow: {why}"
        return Method.STOP_COPY

    def _until_followed(self) -> None:
        """The source's part of a post-copy ends when all memory was fetched. Where the other side was not heard to run, that may wait for its next
        step, which waits for the end of this one; carrier and CRIU go on by themselves."""
        if self._carrier is not None:
            self._carrier.close()
            if not self._runs_there:
                return
            with self._phase("follow"):
                deadline = time.monotonic() + _FOLLOWING
                while self._server.drivers.checkpoint().following(self._draft / "images") and time.monotonic() < deadline:
                    time.sleep(0.02)

    def _end_carrying(self) -> None:
        """A post-copy that comes to nothing: CRIU sees the end of its socket, and leaves the container as it was."""
        if self._carrier is not None:
            self._carrier.stop()
            self._server.drivers.checkpoint().end_following(self._draft / "images")

    # --- while the tenant waits

    def _move_live(self, control: Channel, volume: Channel) -> float:
        hooks.before(self._server, self._spec, "migrate")
        with unhurried(self._server, self._spec):
            try:
                restored = self._copy(control, volume)
                self._passing("restored")
                self._hand_over()
            except BaseException as error:
                if self.handed_over:  # the word may be on the disk although writing it failed
                    raise
                self._end_carrying()
                go_on(self._server, self._spec)
                _abort(control, error)
                raise
            self._passing("handed-over")
            self._kill()
        self._passing("killed")
        control_said = self._say_go(control)
        self._phases |= {f"there_{name}": took for name, took in restored.phases.items()}
        self._runs_there = control_said is not None
        if control_said is not None:
            self._phases |= {f"there_{name}": took for name, took in control_said.phases.items()}
        return round((time.monotonic() - self._frozen) * 1000, 1)

    def _copy(self, control: Channel, volume: Channel) -> Restored:
        """Memory and what changed of the files, side by side, up to the word that the container stands there."""
        for channel in (control, volume):
            channel.notice_within(NOTICE)
        images = self._draft / "images"
        try:
            with self._phase("dump"):
                self._dump(images, control, volume)
            self._passing("dumped")
            with self._phase("send_memory"):
                self._send_images(control, "last", Round(parent=self._parent(), follows=self._carrier is not None), images)
            self._passing("sent")
            restored = self._await_restored(control)
        except BaseException:
            volume.stop("the move has failed")  # which ends what is beside
            if self._files is not None:
                self._files.end()
            raise
        assert self._files is not None
        self._files.join()
        return restored

    def _dump(self, images: Path, control: Channel, volume: Channel) -> None:
        """The container is halted as late as can be: when the checkpoint driver is ready. What it looks like is seen before, and once more
        then; one that has just changed is dumped anew."""
        ns, checkpoint = self._server.drivers.ns(self._spec.drivers.ns), self._server.drivers.checkpoint()
        memory = self._carrier.criu.fileno() if self._carrier else None
        shape = ns.shape(self._spec.id)

        def stand_still() -> None:
            self._halt(control, volume)
            if ns.shape(self._spec.id) != shape:
                raise _Changed("the container has just changed its shape")

        images.mkdir(parents=True, mode=0o700)
        try:
            checkpoint.dump(shape, images, parent=self._last_round(), memory=memory, halt=stand_still)
        except _Changed:
            shutil.rmtree(images)
            images.mkdir(mode=0o700)
            checkpoint.dump(ns.shape(self._spec.id), images, parent=self._last_round(), memory=memory)

    def _halt(self, control: Channel, volume: Channel) -> None:
        with self._phase("halt"):
            halt(self._server, self._spec, self._operation, self._draft / "images")
        self._frozen = time.monotonic()
        control.send("frozen")
        self._files = Beside(lambda: self._send_changes(volume))
        output.settle(self._server.host, self._spec.id)
        self._passing("frozen")

    def _send_changes(self, volume: Channel) -> None:
        with self._phase("send_files"):
            self._send_volume(volume, self._second, self._first)
            self._send_output(volume)

    def _await_restored(self, control: Channel) -> Restored:
        deadline = time.monotonic() + RESTORE_PATIENCE
        with self._phase("await_restore"):
            while time.monotonic() < deadline:
                word = control.receive(SILENCE, "restoring", "restored")
                if word.kind == "restored":
                    return word.parse(Restored)
        raise Timeout(f"the other server did not restore the container within {RESTORE_PATIENCE:g} s", hint="look at its load, then move it again")

    @property
    def handed_over(self) -> bool:
        """Whether the container is the other server's."""
        return _journal(self._server).handed_over(self._spec.id) == self._operation

    def _hand_over(self) -> None:
        """The word. Before it the container is ours, after it theirs."""
        with self._phase("hand_over"):
            _journal(self._server).hand_over(self._spec.id, self._operation, self._peer.fingerprint)

    def _kill(self) -> None:
        """While they are frozen, so that no instruction of theirs is run again whatever thaws them."""
        with self._phase("kill"):
            kill_all(self._server, self._spec)

    def _say_go(self, control: Channel) -> Running | None:
        """Whatever goes wrong now is no failure of this side: the control side tells the other one, on our word."""
        try:
            with self._phase("go"):
                control.send("go", Go(packets=following.left_behind(self._server, self._spec)))
                self._passing("gone")
                return control.receive(PATIENCE, "running").parse(Running)
        except HostlerError as error:
            log.warning("the other server was not heard after the hand-over", code=error.stable_code, error=error.message)
            return None

    # --- volumes, and what was written to the log

    def _send_volume(self, channel: Channel, snapshot: str, since: str | None) -> None:
        self._storage.snapshot(self._spec.id, snapshot)
        channel.send("snapshot", name=snapshot)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        out = os.fdopen(writing, "wb")  # closed by who writes: a second thread would wait for the first to let go of it
        sender = Beside(lambda: self._pour(snapshot, out, since))
        try:
            with os.fdopen(reading, "rb", buffering=0):
                self._bytes += channel.send_stream(reading, patience=_VOLUME_PATIENCE)
        except BaseException:
            sender.end()  # what it writes nobody reads any more
            raise
        sender.join()
        channel.receive(_VOLUME_PATIENCE if since is None else PATIENCE, "received")

    def _pour(self, snapshot: str, out: Any, since: str | None) -> None:
        with out:
            self._storage.send(self._spec.id, snapshot, out, since=since)

    def _send_output(self, channel: Channel) -> None:
        self._bytes += output.send(self._server.host, self._spec.id, channel, self._draft / "log")

    # --- small things

    def _channel(self, stream: str) -> Channel:
        assert self._server.wire is not None
        return self._server.wire.connect(self._peer, self._ticket, stream)

    def _passing(self, point: str) -> None:
        points.passing(self._server.host, f"out.{point}")

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] = round((time.monotonic() - began) * 1000, 1)

    def report(self, method: str, frozen_ms: float | None) -> dict[str, Any]:
        """What it cost so far."""
        self._phases["total"] = round((time.monotonic() - self._began) * 1000, 1)
        return {"method": method, "frozen_ms": frozen_ms, "bytes": self._bytes, "phases": self._phases, "why": self._why,
                "rounds": [{"bytes": one.size, "ms": one.milliseconds} for one in self._rounds]}


def leave(
    server: Server, spec: ContainerSpec, operation: str, peer: WireFact, secret: str, *, allowed: Collection[str], checkpoint: str | None
) -> dict[str, Any]:
    """Verb ``move.out``. Handed over already is a success; a try that a crash ended before that is not taken up again."""
    if server.wire is None:
        raise Conflict(f"server {server.host.node} has no wire", hint="hostler doctor on the server tells why", code="no_wire")
    if _journal(server).handed_over(spec.id) == operation:
        kill_all(server, spec)
        _tidy(server, spec, operation)
        return {"method": "live" if allowed else "files", "why": "it was handed over before this server's worker was restarted", "frozen_ms": None,
                "bytes": 0, "phases": {}, "rounds": []}
    if _folder(server, spec).is_dir():
        come_back(server, spec, operation)
        raise Unavailable("the worker was restarted in the middle of the move; the container goes on where it was", hint="move it again", code="interrupted")
    departure = Departure(server, spec, operation, peer, secret)
    try:
        return departure.run(allowed=allowed, checkpoint=checkpoint)
    except Exception as error:
        if not departure.handed_over:
            raise
        log.error("the container was handed over, and something went wrong since", error=str(error))  # move.clean removes what is left
        return departure.report("live" if allowed else "files", None)


def _folder(server: Server, spec: ContainerSpec) -> Path:
    """Found at the beginning of a move, it tells of a crash."""
    return leaving(server.host, spec.id)


def come_back(server: Server, spec: ContainerSpec, operation: str) -> None:
    """Verb ``move.back``: the container goes on here. Raises :class:`Conflict` when it was handed over."""
    if _journal(server).handed_over(spec.id) == operation:
        raise Conflict(
            f"container {spec.name} was handed over to the other server and runs there", hint="let the operation go forward: hostler op resolve", code="handed_over"
        )
    if server.drivers.ns(spec.drivers.ns).inspect(spec.id).state in ("running", "frozen"):
        if server.drivers.loaded["checkpoint"]:
            break_off(_folder(server, spec) / "images", server.drivers.checkpoint())
        go_on(server, spec)
        hold_to_limits(server, spec)  # where a worker died that had lifted them
    _tidy(server, spec, operation)


def _snapshots(operation: str) -> tuple[str, str]:
    """Of the volume before the freeze, and in it."""
    return f"move-{operation}-1", f"move-{operation}-2"


def _tidy(server: Server, spec: ContainerSpec, operation: str) -> None:
    """Remove what only the move needed."""
    if _folder(server, spec).is_dir():
        shutil.rmtree(_folder(server, spec))
    for snapshot in _snapshots(operation):
        server.drivers.storage(spec.drivers.storage).delete_snapshot(spec.id, snapshot)


def kill_all(server: Server, spec: ContainerSpec) -> None:
    """SIGKILL to every process of the container. Frozen ones die when they are thawed, without running again."""
    for pid in server.drivers.limits(spec.drivers.limits).processes(spec.id):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    still_file(server.host, spec.id).unlink(missing_ok=True)


def _abort(control: Channel, error: BaseException) -> None:
    try:
        control.send("abort", reason=str(error)[:500])
    except HostlerError as cut:
        log.info("the other server could not be told that the move was given up", error=cut.message)


def _until_ready(control: Channel) -> Ready:
    while (word := control.receive(PATIENCE, "ready", "receiving")).kind != "ready":
        log.debug("the volume is being received")
    return word.parse(Ready)


def _journal(server: Server) -> Journal:
    if server.journal is None:
        raise HostlerError("this server keeps no journal", hint="bring all servers to one version", code="no_journal")
    return server.journal


