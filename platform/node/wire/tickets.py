"""One-time tickets: who may connect for which operation, once for each of its streams, for how long."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, Field

from hostler.core.errors import Invalid, NoRoom
from hostler.node.wire.channel import Channel

Serve = Callable[[Channel], None]

#: Seconds in which every stream of a ticket must have been opened.
LIFETIME = 120.0
CONTROL = "control"
_SECRET_BYTES = 32
_TICKETS_AT_MOST = 256
_FINGERPRINT = r"^[0-9a-f]{64}$"


class Ticket(BaseModel):
    """What the connecting side must present. It opens nothing for anybody but the server that it was made for."""

    operation: str
    streams: tuple[str, ...] = (CONTROL,)
    secret: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)


@dataclass
class _Expected:
    digest: bytes
    peer: str
    unused: set[str]
    serve: Serve
    until: float


class Tickets:
    """What is expected here. Only digests of tickets are kept. Used from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._expected: dict[str, _Expected] = {}

    def issue(self, operation: str, peer: str, serve: Serve, lifetime: float, streams: tuple[str, ...], secret: str | None = None) -> Ticket:
        """A new ticket; an earlier one for the same operation is worth nothing any more. ``secret``: 64 hexadecimal digits that whoever had
        both sides do this has chosen and told them; else it is made here. Raises :class:`Invalid`, :class:`NoRoom`."""
        if len(peer) != 64 or not set(peer) <= set("0123456789abcdef"):
            raise Invalid(f"{peer[:80]!r} is no fingerprint", hint="64 lower-case hexadecimal digits, as hostler node show prints")
        if not operation or not streams or not 0 < lifetime <= 86400:
            raise Invalid("a ticket needs an operation, a stream and a lifetime up to a day", hint="name the operation's id")
        chosen = bytes.fromhex(secret) if secret is not None else secrets.token_bytes(_SECRET_BYTES)
        with self._lock:
            self._clean()
            if operation not in self._expected and len(self._expected) >= _TICKETS_AT_MOST:
                raise NoRoom(f"{_TICKETS_AT_MOST} tickets are open already", hint="wait for some of these operations to begin")
            self._expected[operation] = _Expected(_digest(chosen), peer, set(streams), serve, self._clock() + lifetime)
        return Ticket(operation=operation, streams=streams, secret=chosen.hex())

    def take(self, operation: str, stream: str, secret: str, peer: str) -> Serve | str:
        """Use a stream of a ticket up. Who serves it; or why not, for this server's log alone."""
        try:
            digest = _digest(bytes.fromhex(secret))
        except ValueError:
            return "it is malformed"
        with self._lock:
            expected = self._expected.get(operation)
            if expected is None:
                return "no such operation is expected"
            if not hmac.compare_digest(expected.digest, digest):
                return "it is wrong"
            if expected.peer != peer:
                return "it was made for another server"
            if self._clock() > expected.until:
                return "it has expired"
            if stream not in expected.unused:
                return "it is not for this stream, or was used for it"
            expected.unused.discard(stream)
            if not expected.unused:
                del self._expected[operation]
            return expected.serve

    def forget(self, operation: str) -> None:
        """Take an operation's ticket back. None is a success."""
        with self._lock:
            self._expected.pop(operation, None)

    def knows(self, peer: str) -> bool:
        """Whether any ticket that is still good was made for this server."""
        with self._lock:
            self._clean()
            return any(expected.peer == peer for expected in self._expected.values())

    def _clean(self) -> None:
        now = self._clock()
        self._expected = {operation: expected for operation, expected in self._expected.items() if expected.until >= now}


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
