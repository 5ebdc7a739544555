"""The connecting side: to a known server, with a ticket that it made."""

from __future__ import annotations

import hmac
import socket
import time

from hostler.core.errors import Denied, Invalid, Timeout, Unavailable
from hostler.node.wire.address import parse
from hostler.node.wire.channel import Channel
from hostler.node.wire.failures import late, stranger
from hostler.node.wire.identity import Identity
from hostler.node.wire.secured import Secured
from hostler.node.wire.tickets import Ticket

VERSION = 1
HELLO, WELCOME = "hello", "welcome"


def connect(address: str, fingerprint: str, ticket: Ticket, stream: str, *, identity: Identity, timeout: float = 10) -> Channel:
    """A channel to the server at ``address``, whose certificate must have ``fingerprint``. ``timeout``: seconds for all of it.

    Raises :class:`Unavailable` (``wire_unreachable``, ``wire_cut``), :class:`Timeout`, and :class:`Denied`: ``wire_stranger`` when
    another server answers, ``wire_refused`` when it does not take the ticket.
    """
    if stream not in ticket.streams:
        raise Invalid(f"the ticket is not for stream {stream}", hint=f"it is for {', '.join(ticket.streams)}")
    deadline = time.monotonic() + timeout
    secured = Secured(_open(address, timeout), identity.context(server=False), server=False)
    try:
        shown = secured.handshake(deadline)
        if not hmac.compare_digest(shown, fingerprint):
            raise stranger(f"another server than expected answers at {address}: its fingerprint is {shown}")
        channel = Channel(secured, operation=ticket.operation, stream=stream, peer=shown)
        _present(channel, ticket, deadline)
    except BaseException:
        secured.close()
        raise
    return channel


def _open(address: str, timeout: float) -> socket.socket:
    host, port = parse(address)
    try:
        return socket.create_connection((host, port), timeout)
    except TimeoutError as error:
        raise late(f"connecting to {address}", timeout) from error
    except OSError as error:
        raise Unavailable(
            f"the server at {address} cannot be reached: {error.strerror}",
            hint="see whether its worker runs and whether its HOSTLER_NODE_WIRE_ADDRESS is the right one", code="wire_unreachable",
        ) from error  # fmt: skip


def _present(channel: Channel, ticket: Ticket, deadline: float) -> None:
    try:
        channel.send(HELLO, version=VERSION, operation=ticket.operation, stream=channel.stream, secret=ticket.secret)
        channel.receive(deadline - time.monotonic(), WELCOME)
    except Timeout:
        raise
    except Unavailable as error:
        raise Denied(
            "the other server does not take the ticket", hint="tickets are good once and for minutes: run the operation again; the other server's log says more", code="wire_refused"
        ) from error
