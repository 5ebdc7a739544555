"""The accepting side: strangers are held to few connections, few bytes and little time, and learn nothing.

One thread accepts; each connection has a thread of its own, in which TLS is agreed on, the ticket taken, and the operation served.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import Counter

import structlog
from pydantic import BaseModel, ConfigDict, Field

from hostler.core.errors import Denied, ErrorReport, HostFailure, HostlerError
from hostler.node.wire.address import parse, written
from hostler.node.wire.channel import Channel
from hostler.node.wire.client import HELLO, VERSION, WELCOME
from hostler.node.wire.frames import Kind, parse_message
from hostler.node.wire.identity import Identity
from hostler.node.wire.secured import Secured
from hostler.node.wire.tickets import Serve, Tickets

#: Seconds in which a connection must have shown its ticket.
PATIENCE = 5.0
#: Connections at a time; those of one address that have not shown a ticket yet.
CONNECTIONS, STRANGERS_PER_ADDRESS = 128, 8
_HELLO_LIMIT = 4096
_BACKLOG = 64
#: Seconds that connections have to end when the listener does.
_FAREWELL = 10.0
logger = structlog.get_logger()


class _Hello(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    operation: str = Field(max_length=200)
    stream: str = Field(max_length=64)
    secret: str = Field(max_length=64)


class Listener:
    """Accepts connections from the time it is made until :meth:`close`."""

    def __init__(self, listen: str, identity: Identity, tickets: Tickets, *, patience: float = PATIENCE) -> None:
        """Raises :class:`HostFailure` (``wire_listen``) when the address cannot be listened on."""
        self._tickets, self._patience = tickets, patience
        self._context = identity.context(server=True)
        self._socket = _listening(listen)
        self.address = written(*self._socket.getsockname()[:2])
        """Where it listens, with the port that it got."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._closing = False
        self._connections: dict[threading.Thread, Secured] = {}
        self._served: dict[threading.Thread, Channel] = {}
        self._strangers: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._accept_all, name="wire-listener", daemon=True)
        self._thread.start()

    def hang_up(self, operation: str) -> None:
        """End the connections that were accepted for an operation."""
        with self._lock:
            channels = [channel for channel in self._served.values() if channel.operation == operation]
        for channel in channels:
            channel.stop("the operation was given up")

    def close(self) -> None:
        """Take nothing more and end all connections; their threads have a few seconds. Again is a success."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            connections = dict(self._connections)
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._socket.close()
        os.close(self._wake)
        for secured in connections.values():
            secured.stop("this server's worker ends")
        deadline = time.monotonic() + _FAREWELL
        for thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.error("what serves a wire does not end", thread=thread.name)

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._closing:
            poll.poll()
            try:
                connection, peer = self._socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # accept(2): the peer is gone again, or the machine is short of something
                logger.warning("wire not accepted", reason=error.strerror)
                time.sleep(0.1)
                continue
            self._admit(connection, peer[0])

    def _admit(self, connection: socket.socket, address: str) -> None:
        with self._lock:
            full = self._closing or len(self._connections) >= CONNECTIONS or self._strangers[address] >= STRANGERS_PER_ADDRESS
            try:
                if full:
                    raise _refusal("too many connections")
                secured = Secured(connection, self._context, server=True)
                thread = threading.Thread(target=self._run, args=(secured, address), name=f"wire-{address}", daemon=True)
                thread.start()  # it waits for the lock before it ends
            except (OSError, RuntimeError, Denied) as error:  # the peer is gone again; no more threads; too many
                connection.close()
                logger.warning("wire refused", peer=address, reason=str(error))
                return
            self._connections[thread] = secured
            self._strangers[address] += 1

    def _run(self, secured: Secured, address: str) -> None:
        here = threading.current_thread()
        try:
            with self._lock:  # from here on it is among the connections
                pass
            try:
                channel, serve = self._introduced(secured)
            except HostlerError as error:
                logger.warning("wire refused", peer=address, reason=error.message)
                return
            finally:
                self._known(address)
            _serve(channel, serve, address)
        finally:
            secured.close()
            with self._lock:
                self._served.pop(here, None)
                del self._connections[here]

    def _known(self, address: str) -> None:
        with self._lock:
            self._strangers -= Counter({address: 1})

    def _introduced(self, secured: Secured) -> tuple[Channel, Serve]:
        """The channel of a connection that had a ticket, and who serves it. The other side learns of a refusal that it is one."""
        deadline = time.monotonic() + self._patience
        peer = secured.handshake(deadline)
        if not self._tickets.knows(peer):
            raise _refusal(f"no server with fingerprint {peer} is expected")
        first = Channel(secured, operation="", stream="", peer=peer)
        kind, body = first.next_frame(deadline, "the ticket", _HELLO_LIMIT)
        message = parse_message(body) if kind is Kind.MESSAGE else None
        if message is None or message.kind != HELLO:
            raise _refusal("no ticket is shown")
        hello = message.parse(_Hello)
        if hello.version != VERSION:
            raise _refusal(f"version {hello.version} of the wire")
        channel = Channel(secured, operation=hello.operation, stream=hello.stream, peer=peer)
        with self._lock:  # whoever gives the operation up finds either the ticket or the channel
            serve = self._tickets.take(hello.operation, hello.stream, hello.secret, peer)
            if isinstance(serve, str):
                raise _refusal(f"the ticket for {hello.operation[:80]!r}, stream {hello.stream!r}, is not taken: {serve}")
            self._served[threading.current_thread()] = channel
        channel.send(WELCOME)
        return channel, serve


def _refusal(reason: str) -> Denied:
    """For this server's log: the other side is not told."""
    return Denied(reason, hint="a ticket is good once, for one server", code="wire_refused")


def _serve(channel: Channel, serve: Serve, address: str) -> None:
    """What it raises is told to the other side; a bug is logged whole."""
    log = logger.bind(peer=address, operation=channel.operation, stream=channel.stream)
    log.info("wire opened")
    try:
        serve(channel)
    except Exception as error:  # an outer edge: the other side is told
        report = ErrorReport.of(error)
        if report.bug:
            log.error("a wire's service failed", traceback=report.traceback)
        else:
            log.warning("a wire's service failed", code=report.code, reason=report.message)
        channel.fail(error)
    else:
        log.info("wire closed")


def _listening(listen: str) -> socket.socket:
    host, port = parse(listen)
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        return listening
    except OSError as error:
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.close()
        raise HostFailure(
            f"cannot listen for other servers at {listen}: {error.strerror}",
            hint="HOSTLER_NODE_WIRE_LISTEN must be an address of this server and a port that nobody else has", code="wire_listen",
        ) from error  # fmt: skip
