"""What can go wrong on the wire, as typed errors."""

from __future__ import annotations

from hostler.core.errors import Denied, HostFailure, Timeout, Unavailable


def cut(why: str) -> Unavailable:
    """The connection is gone in the middle: nothing more comes or goes on it. Code ``wire_cut``."""
    return Unavailable(f"the wire to the other server was cut: {why}", hint="look at the network between the two servers", code="wire_cut")


def late(what: str, seconds: float) -> Timeout:
    """Nothing came in time, while the wire itself is whole. Code ``wire_timeout``."""
    return Timeout(f"{what} took longer than {seconds:g} s", hint="the other server is busy or stuck: its worker's log tells", code="wire_timeout")


def nonsense(what: str) -> HostFailure:
    """The other side says what the protocol does not know. Code ``wire_protocol``."""
    return HostFailure(f"the other server speaks another language on the wire: {what}", hint="bring all servers to one version", code="wire_protocol")


def stranger(what: str) -> Denied:
    """The other side is not who it must be. Code ``wire_stranger``."""
    return Denied(what, hint="hostler node show NAME tells a server's fingerprint; a server with a new identity must greet first", code="wire_stranger")
