"""On the real kernel: rates hold for TCP in both directions, live, and counters see the traffic."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from hostler.host import netlink, netns
from tests.plugins.net.world import Container, World, link

pytestmark = pytest.mark.lab

#: One alone may be waiting to send a lost packet again.
_CONNECTIONS = 3


def _rate(sender: Container, receiver: Container, version: int = 4, seconds: float = 2.0) -> float:
    """Bits per second that reach the receiver's interface while TCP connections send all they can.

    The first half second, in which buckets are full, is not counted. Counted at the interface, because what an application
    is given comes in lumps, when a lost packet has been sent again.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = receiver.v4 if version == 4 else receiver.v6
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(receiver.socket(family, socket.SOCK_STREAM))
        door.bind((address, 0))
        door.listen()
        for _ in range(_CONNECTIONS):
            source = stack.enter_context(sender.socket(family, socket.SOCK_STREAM))
            source.connect(door.getsockname()[:2])
            sink = stack.enter_context(door.accept()[0])
            for work, end in ((_feed, source), (_drain, sink)):
                thread = threading.Thread(target=work, args=(end, stop))
                thread.start()
                stack.callback(thread.join)
        stack.callback(stop.set)  # called first
        time.sleep(0.5)
        began, before = time.monotonic(), _received(receiver)
        time.sleep(seconds)
        return (_received(receiver) - before) * 8 / (time.monotonic() - began)


def _received(container: Container) -> int:
    with netns.entered(container.netns), netlink.opened() as inside:
        state = inside.link(container.link.name)
    assert state is not None
    return state.rx_bytes


def _feed(source: socket.socket, stop: threading.Event) -> None:
    source.settimeout(0.2)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            source.send(bytes(65536))


def _drain(sink: socket.socket, stop: threading.Event) -> None:
    sink.settimeout(0.2)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            sink.recv(1 << 18)


@pytest.mark.parametrize("rate", [5_000_000, 100_000_000])
def test_rates_hold_in_both_directions(world: World, rate: int) -> None:
    held, free = world.container("alpha", link(1, 2, rate_in=rate, rate_out=rate)), world.container("beta", link(1, 3))
    assert _rate(free, held) == pytest.approx(rate, rel=0.1)
    assert _rate(held, free) == pytest.approx(rate, rel=0.1)
    assert _rate(held, free, version=6) == pytest.approx(rate, rel=0.1)


def test_rates_change_while_it_runs(world: World) -> None:
    held, free = world.container("alpha", link(1, 2)), world.container("beta", link(1, 3))
    driver = world.drivers["alpha"]
    assert _rate(held, free, seconds=0.5) > 200_000_000
    with world.on("alpha"):
        driver.shape(held.id, 20_000_000, 10_000_000)
        driver.shape(held.id, 20_000_000, 10_000_000)
    assert _rate(free, held) == pytest.approx(20_000_000, rel=0.1)
    assert _rate(held, free) == pytest.approx(10_000_000, rel=0.1)
    with world.on("alpha"):
        driver.shape(held.id, None, None)
        driver.shape(held.id, None, None)
    assert _rate(held, free, seconds=0.5) > 200_000_000
    world.detach(held)
    with world.on("alpha"):
        assert driver.inventory() == []


def test_counters_are_the_containers_own(world: World) -> None:
    one, other = world.container("alpha", link(1, 2)), world.container("alpha", link(1, 3))
    with world.on("alpha"):
        before = world.drivers["alpha"].counters(one.id)
    with one.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
        for _ in range(100):
            outbox.sendto(bytes(1000), (other.v4, 9))
    with world.on("alpha"):
        after = world.drivers["alpha"].counters(one.id)
        received = world.drivers["alpha"].counters(other.id)
    assert 100_000 < after.out_bytes - before.out_bytes < 120_000
    assert after.out_packets - before.out_packets >= 100
    assert received.in_bytes > 100_000
    assert after.in_bytes - before.in_bytes < 20_000  # answers that the port is closed
