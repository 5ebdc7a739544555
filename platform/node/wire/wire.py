"""A server's wire: its identity, what it listens on, the tickets it gave out."""

from __future__ import annotations

from pathlib import Path

from hostler.core.messages import WireFact
from hostler.node.wire import client, identity
from hostler.node.wire.address import parse, written
from hostler.node.wire.channel import Channel
from hostler.node.wire.listener import Listener
from hostler.node.wire.tickets import CONTROL, LIFETIME, Serve, Ticket, Tickets


class Wire:
    """One per node worker. Its methods may be called from any thread."""

    def __init__(self, folder: Path, name: str, listen: str, advertised: str = "") -> None:
        """Listen at ``listen`` (``host:port``, port 0 for any) as server ``name``, whose identity lies in ``folder``.

        ``advertised`` is where others reach it, when that is another address. Raises :class:`HostFailure`, :class:`Invalid`.
        """
        self.identity = identity.load(folder, name)
        self._tickets = Tickets()
        self._listener = Listener(listen, self.identity, self._tickets)
        self.address = written(*parse(advertised)) if advertised else self._listener.address

    @property
    def fact(self) -> WireFact:
        """What others must know of it."""
        return WireFact(address=self.address, fingerprint=self.identity.fingerprint)

    def expect(
        self, operation: str, peer_fingerprint: str, serve: Serve, lifetime: float = LIFETIME, streams: tuple[str, ...] = (CONTROL,),
        secret: str | None = None,
    ) -> Ticket:
        """A ticket with which one server may open each of ``streams`` once, within ``lifetime`` seconds.

        Each connection is handed to ``serve`` in a thread of its own; ``channel.stream`` says which it is. The channel is closed when
        ``serve`` returns; an error that it raises is told to the other side. A second call for an operation replaces the first's ticket.
        """
        return self._tickets.issue(operation, peer_fingerprint, serve, lifetime, streams, secret)

    def forget(self, operation: str) -> None:
        """Take an operation's ticket back; what it opened already goes on. None is a success."""
        self._tickets.forget(operation)

    def hang_up(self, operation: str) -> None:
        """Take an operation's ticket back and end what it opened: who serves it gets ``wire_cut``. None is a success."""
        self._tickets.forget(operation)
        self._listener.hang_up(operation)

    def connect(self, peer: WireFact, ticket: Ticket, stream: str = CONTROL, *, timeout: float = 10) -> Channel:
        """A channel to another server. See :func:`hostler.node.wire.client.connect`."""
        return client.connect(peer.address, peer.fingerprint, ticket, stream, identity=self.identity, timeout=timeout)

    def close(self) -> None:
        """Take nothing more, end what is open. Again is a success."""
        self._listener.close()
