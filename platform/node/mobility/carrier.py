"""A process of its own that carries memory between two servers: it outlives the workers, who may be restarted meanwhile.

``python -m hostler.node.mobility.carrier``, with an :class:`Errand` as JSON on its standard input, and two descriptors that it inherits: a
socket whose other end is CRIU's, and a pipe on which it says one line (:class:`Said`). Between the servers it speaks as the
wire does, with the same identities and tickets, on a port of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict

from hostler.contracts.checkpoint import Checkpoint
from hostler.core.errors import HostlerError
from hostler.host import guest
from hostler.host.pidfd import Identity
from hostler.host.process import run
from hostler.node.wire import client, identity
from hostler.node.wire.channel import Channel
from hostler.node.wire.tickets import Ticket
from hostler.node.wire.wire import Wire

MEMORY = "memory"
#: Beside a source's images.
PID_FILE = "carrier.pid"
#: Seconds until a carrier must have said its line, and until the other one must have come.
_BEGIN, _LIFETIME = 20.0, 600.0
_TIMEOUT = 6 * 3600.0
_STOP = b"x"


class Errand(BaseModel):
    """What a carrier is to do. ``to``: connect there; none: wait for the other one, and tell where."""

    model_config = ConfigDict(extra="forbid")

    folder: Path
    node: str
    listen: str
    operation: str
    peer: str
    secret: str
    to: str = ""
    pid_file: Path | None = None
    """Where it writes its pid, for whoever must end it when the worker that started it is gone."""
    local: int = -1
    status: int = -1
    leash: int = -1


class Said(BaseModel):
    """A carrier's line: where it waits, or that it is connected; or why not."""

    address: str = ""
    error: str = ""


class Carrier:
    """A carrier that was started, as whoever started it sees it. :attr:`criu` is the socket for CRIU."""

    def __init__(self, errand: Errand) -> None:
        """Start one; the descriptors are filled in here. Raises :class:`HostlerError` (``no_carrier``) with its words."""
        self.criu, mine = socket.socketpair()
        self._leash, end = socket.socketpair()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._ended = threading.Event()
        told = errand.model_copy(update={"local": mine.fileno(), "status": writing, "leash": end.fileno()})
        threading.Thread(target=self._body, args=(told,), name="carrier", daemon=True).start()
        try:
            self.said = self._line(reading)
        finally:
            for handle in (reading, writing):
                os.close(handle)
            end.close()
            mine.close()  # the carrier has its own: when it ends, CRIU sees it
        if self.said.error:
            self.close()
            raise HostlerError(f"memory cannot be carried: {self.said.error}", hint="move it again; stop_copy sends memory at once", code="no_carrier")

    def _body(self, errand: Errand) -> None:
        words = [sys.executable, "-m", "hostler.node.mobility.carrier"]
        try:
            with open(os.devnull, "wb") as nothing:
                run(
                    words, stdin=errand.model_dump_json().encode(), stdout=nothing, stderr=nothing, timeout=_TIMEOUT, check=False,
                    pass_fds=(errand.local, errand.status, errand.leash),
                )
        finally:
            self._ended.set()

    def _line(self, reading: int) -> Said:
        poll, line, deadline = select.poll(), b"", time.monotonic() + _BEGIN
        poll.register(reading, select.POLLIN)
        while not line.endswith(b"\n"):
            if poll.poll(20):
                line += os.read(reading, 4096)
            elif self._ended.is_set() or time.monotonic() > deadline:
                return Said(error="the carrier did not begin")
        return Said.model_validate_json(line)

    def stop(self) -> None:
        """End it now: CRIU sees the end of its memory. Ended already is a success."""
        with contextlib.suppress(OSError):
            self._leash.send(_STOP)
        self.close()

    def close(self) -> None:
        """Let go: CRIU has its own end of the socket by now, and the carrier does its errand alone."""
        self.criu.close()
        self._leash.close()


def break_off(images: Path, checkpoint: Checkpoint) -> None:
    """Have CRIU let go of the processes of a container, which are frozen then, when the worker died that had them dumped to ``images``. Where
    memory was to follow, CRIU sees the end of its socket. None under way is a success."""
    try:
        carrier = Identity.of(int(images.with_name(PID_FILE).read_text()))
    except (FileNotFoundError, ValueError):
        carrier = None
    if carrier is not None and _is_carrier(carrier.pid):
        carrier.send(signal.SIGKILL)
    checkpoint.end_following(images)


def _is_carrier(pid: int) -> bool:
    try:
        return __name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def carry(errand: Errand) -> None:
    """In the carrier's own process: do the errand, to the end of what is to be carried."""
    if errand.pid_file is not None:
        guest.write_whole(errand.pid_file, str(os.getpid()))
    threading.Thread(target=_obey, args=(socket.socket(fileno=errand.leash),), name="leash", daemon=True).start()
    with socket.socket(fileno=errand.local) as local, os.fdopen(errand.status, "wb") as status:

        def say(said: Said) -> None:
            status.write(said.model_dump_json().encode() + b"\n")
            status.close()

        try:
            if errand.to:
                _bring(errand, local, say)
            else:
                _fetch(errand, local, say)
        except HostlerError as error:
            if not status.closed:
                say(Said(error=error.message))
            raise


def _obey(leash: socket.socket) -> None:
    """End at once when told to. Whoever holds the other end may die without a word, which is no reason."""
    if leash.recv(1) == _STOP:
        os._exit(1)


def _bring(errand: Errand, local: socket.socket, say: Callable[[Said], None]) -> None:
    ticket = Ticket(operation=errand.operation, streams=(MEMORY,), secret=errand.secret)
    own = identity.load(errand.folder, errand.node)
    with client.connect(errand.to, errand.peer, ticket, MEMORY, identity=own, timeout=10) as channel:
        say(Said())
        channel.pump(local)


def _fetch(errand: Errand, local: socket.socket, say: Callable[[Said], None]) -> None:
    wire = Wire(errand.folder, errand.node, errand.listen)
    done = threading.Event()

    def serve(channel: Channel) -> None:
        try:
            channel.pump(local)
        finally:
            done.set()

    try:
        wire.expect(errand.operation, errand.peer, serve, _LIFETIME, (MEMORY,), errand.secret)
        say(Said(address=wire.address))
        done.wait(_TIMEOUT)
    finally:
        wire.close()


def main() -> int:
    """Exit status 0, or 1 when what was to be carried broke off."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        carry(Errand.model_validate_json(sys.stdin.read()))
    except HostlerError as error:
        structlog.get_logger().warning("memory was not carried to its end", error=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
