"""Strangers at the listener: none gets in, none learns why, none holds it up."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hostler.core.errors import Denied, HostFailure, HostlerError, Invalid, NoRoom, Timeout, Unavailable
from hostler.core.messages import WireFact
from hostler.node.wire import identity, listener
from hostler.node.wire.address import parse
from hostler.node.wire.channel import Channel
from hostler.node.wire.client import connect
from hostler.node.wire.identity import Identity
from hostler.node.wire.listener import Listener
from hostler.node.wire.secured import Secured
from hostler.node.wire.tickets import Ticket, Tickets
from hostler.node.wire.wire import Wire
from tests.node.wire.conftest import PATIENCE, Pair, aside, descriptors


def nothing(channel: Channel) -> None:
    """Serves and says nothing."""


def raw(wire: Wire) -> socket.socket:
    return socket.create_connection(parse(wire.address), 5)


def ended(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side hangs up in time, whatever it says before."""
    connection.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


def still_serves(pair: Pair) -> None:
    with pair.channels("still") as (near, far):
        near.send("hello")
        assert far.receive(5).kind == "hello"


def refused(pair: Pair, fingerprint: str, ticket: Ticket, who: Identity) -> str:
    with pytest.raises(Denied) as failure:
        connect(pair.beta.address, fingerprint, ticket, "control", identity=who, timeout=5)
    return failure.value.stable_code


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000, b"\x16\x03\x01\xff\xff" + b"A" * 70000, b"SSH-2.0-x\r\n"])
def test_garbage_before_tls(pair: Pair, garbage: bytes) -> None:
    with raw(pair.beta) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(garbage)
        assert ended(connection, listener.PATIENCE + 3)
    still_serves(pair)


def test_tls_older_than_1_3(pair: Pair) -> None:
    context = pair.alpha.identity.context(server=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    pair.beta.expect("op", pair.alpha.identity.fingerprint, nothing)
    with raw(pair.beta) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection)


def test_no_certificate(pair: Pair) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with raw(pair.beta) as connection, pytest.raises(ssl.SSLError), context.wrap_socket(connection) as tls:
        tls.recv(1)


def test_every_refusal_looks_the_same_and_is_logged_with_its_reason(pair: Pair, tmp_path: Path) -> None:
    own = pair.alpha.identity.fingerprint
    ticket = pair.beta.expect("op", own, nothing, streams=("control", "memory"))
    pair.beta.expect("other", own, nothing)
    stranger = identity.load(tmp_path / "eve", "alpha")
    pair.beta.expect("eve's own", stranger.fingerprint, nothing)
    known = identity.load(tmp_path / "unknown", "alpha")
    cases: list[tuple[Ticket, Identity, str]] = [
        (ticket.model_copy(update={"secret": "0" * 64}), pair.alpha.identity, "it is wrong"),
        (ticket.model_copy(update={"operation": "none"}), pair.alpha.identity, "no such operation"),
        (ticket.model_copy(update={"operation": "other"}), pair.alpha.identity, "it is wrong"),
        (ticket, stranger, "another server"),
        (ticket, known, "no server with fingerprint"),
    ]
    for wrong, who, reason in cases:
        with capture_logs() as lines:
            assert refused(pair, pair.beta.identity.fingerprint, wrong, who) == "wire_refused"
            _until(partial(_told, lines))
        assert reason in next(line["reason"] for line in lines if line["event"] == "wire refused")
        assert ticket.secret not in str(lines)
    connect(pair.beta.address, pair.beta.identity.fingerprint, ticket, "control", identity=pair.alpha.identity).close()
    assert refused(pair, pair.beta.identity.fingerprint, ticket, pair.alpha.identity) == "wire_refused"
    pair.alpha.connect(pair.beta.fact, ticket, "memory").close()


def _told(lines: Sequence[MutableMapping[str, Any]]) -> bool:
    return any(line["event"] == "wire refused" for line in lines)


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_server_at_the_address_gets_no_ticket(pair: Pair, tmp_path: Path) -> None:
    """A machine in the middle has a certificate of its own, and learns nothing to use elsewhere."""
    ticket = pair.beta.expect("op", pair.alpha.identity.fingerprint, nothing)
    middle = Wire(tmp_path / "middle", "beta", "127.0.0.1:0")
    try:
        with pytest.raises(Denied) as failure:
            pair.alpha.connect(WireFact(address=middle.address, fingerprint=pair.beta.identity.fingerprint), ticket)
    finally:
        middle.close()
    assert failure.value.stable_code == "wire_stranger"
    pair.alpha.connect(pair.beta.fact, ticket).close()


def test_a_forgotten_ticket_and_a_stream_that_it_is_not_for(pair: Pair) -> None:
    ticket = pair.beta.expect("op", pair.alpha.identity.fingerprint, nothing)
    with pytest.raises(Invalid):
        pair.alpha.connect(pair.beta.fact, ticket, "memory")
    pair.beta.forget("op")
    assert refused(pair, pair.beta.identity.fingerprint, ticket, pair.alpha.identity) == "wire_refused"


@contextlib.contextmanager
def introduced(pair: Pair, who: Identity) -> Iterator[Secured]:
    """TLS by a server that is expected, without a ticket shown yet."""
    pair.beta.expect("theirs", who.fingerprint, nothing)
    secured = Secured(raw(pair.beta), who.context(server=False), server=False)
    try:
        secured.handshake(time.monotonic() + 5)
        yield secured
    finally:
        secured.close()


@pytest.mark.parametrize("first", [b"\x01\x00\x00\x20\x00", b"\x01\xff\xff\xff\xff", b"\x02\x00\x00\x00\x01x", b"\x01\x00\x00\x00\x02{}", b"\xff" * 100])
def test_a_known_server_that_talks_nonsense(pair: Pair, first: bytes) -> None:
    with introduced(pair, pair.alpha.identity) as secured:
        secured.write([first])
        with pytest.raises(Unavailable):
            if not secured.read(memoryview(bytearray(10)), time.monotonic() + 3):
                raise Unavailable("it ended in order")
    still_serves(pair)


def test_slow_ones_and_silent_ones_are_hung_up_on(tmp_path: Path) -> None:
    beta = identity.load(tmp_path, "beta")
    slow = Listener("127.0.0.1:0", beta, Tickets(), patience=0.5)
    try:
        with socket.create_connection(parse(slow.address)) as silent, socket.create_connection(parse(slow.address)) as dripping:
            stop = threading.Event()

            def drip() -> None:
                with contextlib.suppress(OSError):
                    for byte in b"\x16\x03\x01\x02\x00" + b"\1" * 100:
                        dripping.sendall(bytes([byte]))
                        if stop.wait(0.1):
                            return

            with aside(drip):
                began = time.monotonic()
                assert ended(silent, 3)
                assert ended(dripping, 3)
                assert time.monotonic() - began < 2.5
                stop.set()
    finally:
        slow.close()


def test_one_address_cannot_take_all_places(pair: Pair) -> None:
    before = descriptors()
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(raw(pair.beta)) for _ in range(listener.STRANGERS_PER_ADDRESS)]
        time.sleep(0.2)
        with raw(pair.beta) as one_more:
            assert ended(one_more, 2)
        for connection in waiting:
            assert ended(connection, listener.PATIENCE + 3)
    still_serves(pair)
    _until(lambda: descriptors() == before)


def test_nobody_there_and_nobody_answering(pair: Pair, tmp_path: Path) -> None:
    ticket = pair.beta.expect("op", pair.alpha.identity.fingerprint, nothing)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(Timeout):
            connect(address, "0" * 64, ticket, "control", identity=pair.alpha.identity, timeout=0.5)
    with pytest.raises(Unavailable) as failure:
        connect(address, "0" * 64, ticket, "control", identity=pair.alpha.identity, timeout=2)
    assert failure.value.stable_code == "wire_unreachable"


def test_what_serves_fails_and_the_other_side_hears_it(pair: Pair) -> None:
    def full(channel: Channel) -> None:
        raise NoRoom("no room", code="pool_full")

    def bug(channel: Channel) -> None:
        raise KeyError("x")

    for serve, code in ((full, "pool_full"), (bug, "internal")):
        ticket = pair.beta.expect("op", pair.alpha.identity.fingerprint, serve)
        with pair.alpha.connect(pair.beta.fact, ticket) as channel, pytest.raises(HostlerError) as failure:
            channel.receive(5)
        assert failure.value.stable_code == code
    still_serves(pair)


def test_hanging_up_ends_what_an_operation_opened(pair: Pair) -> None:
    with pair.channels("op") as (near, far), pair.channels("other") as (other, other_far):
        with aside(lambda: far.receive(30)) as failures:
            pair.beta.hang_up("op")
        assert isinstance(failures[0], Unavailable)
        with pytest.raises(Unavailable):
            near.receive(5)
        other.send("on")
        assert other_far.receive(5).kind == "on"


def test_a_worker_that_ends_ends_its_connections(tmp_path: Path) -> None:
    alpha, beta = Wire(tmp_path / "a", "alpha", "127.0.0.1:0"), Wire(tmp_path / "b", "beta", "127.0.0.1:0")
    try:
        waiting: list[BaseException] = []

        def serve(channel: Channel) -> None:
            try:
                channel.receive(60)
            except HostlerError as error:
                waiting.append(error)

        ticket = beta.expect("op", alpha.identity.fingerprint, serve)
        with alpha.connect(beta.fact, ticket) as channel:
            began = time.monotonic()
            beta.close()
            assert time.monotonic() - began < 3
            assert isinstance(waiting[0], Unavailable)
            with pytest.raises(Unavailable):
                channel.receive(5)
    finally:
        beta.close()
        alpha.close()


def test_an_address_that_another_has(pair: Pair, tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(HostFailure) as failure:
        Wire(tmp_path / "third", "third", pair.beta.address)
    assert failure.value.stable_code == "wire_listen"
    assert descriptors() == before


def test_ipv6(tmp_path: Path) -> None:
    alpha = Wire(tmp_path / "a", "alpha", "[::1]:0", advertised="alpha.example:9")
    try:
        beta = Wire(tmp_path / "b", "beta", "[::1]:0")
        try:
            assert beta.address.startswith("[::1]:")
            assert alpha.fact.address == "alpha.example:9"
            still_serves(Pair(alpha, beta))
        finally:
            beta.close()
    finally:
        alpha.close()
