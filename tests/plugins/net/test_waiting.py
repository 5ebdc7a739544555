"""On the real kernel: what comes for a container that is on its way to another server waits there, and reaches it when it runs."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostler.contracts.net import Net
from hostler.core.errors import Conflict
from hostler.core.specs import FirewallRule
from hostler.host import netlink, netns
from hostler_plugins.net import waiting
from hostler_plugins.net.bridge import Bridge
from hostler_plugins.net.routed import Routed
from hostler_plugins.net.veths import Veths
from hostler_plugins.net.vxlan import Vxlan
from tests.plugins.net.frames import ethernet, mac, udp4
from tests.plugins.net.repair import moved
from tests.plugins.net.world import Container, World, udp_arrives

pytestmark = pytest.mark.lab

_PEERS: dict[str, object] = {"peers": ("198.18.0.11", "198.18.0.12", "198.18.0.13")}
#: Seconds that the container stands still, and the least time after which Linux sends again what was not acknowledged.
_HELD, _RETRANSMISSION = 0.06, 0.2


@dataclass
class Move:
    """A container on alpha, and the process that it is to become on beta; who talks to it on alpha, on beta, and on a third server."""

    world: World
    source: Container
    target: Container
    far: Container
    near: Container
    peer: Container

    def verb(self, server: str, name: str, *args: object) -> None:
        """A verb about the container on a server."""
        with self.world.on(server):
            getattr(self.world.drivers[server], name)(self.source.id, *args)

    def expect(self) -> None:
        """The container stands still, and is expected on beta."""
        self.verb("alpha", "hold")
        self.verb("beta", "expect", self.source.link)

    def bring(self) -> None:
        """What came to alpha goes along with the move's last word."""
        drivers = self.world.drivers
        with self.world.on("alpha"):
            packets = drivers["alpha"].kept(self.source.id, 1 << 20)
        drivers["beta"].bring(self.source.id, packets)

    def arrive(self) -> None:
        """It is there, and runs."""
        self.world.attach(self.target, held=True)
        self.bring()
        self.verb("beta", "release")
        self.verb("alpha", "detach")

    @property
    def callers(self) -> tuple[Container, ...]:
        """Who talks to it."""
        return self.far, self.near, self.peer


@pytest.fixture(params=[Bridge, Routed, Vxlan], ids=lambda kind: str(kind.name))
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Move]:
    """The source is live; nothing is on the target yet."""
    kind: type[Net] = request.param
    world = World(tmp_path, kind, more=_PEERS if kind is Vxlan else {}, network=7 if kind is Vxlan else None)
    try:
        for name, number in (("alpha", 11), ("beta", 12), ("gamma", 13)):
            assert world.add_server(name, number).capabilities.expect  # found out by a trial, once
        source, *others = (world.placed(server, 1, number) for server, number in (("alpha", 2), ("alpha", 5), ("beta", 3), ("gamma", 4)))
        for one in others:
            assert udp_arrives(one, source, 4) and udp_arrives(one, source, 6)
        target = world.container("beta", source.link, attach=False)
        target.id = source.id
        yield Move(world, source, target, *others)
    finally:
        for driver in world.drivers.values():
            closed(driver)
        world.end()


def closed(driver: Net) -> None:
    """A worker with this driver has ended."""
    assert isinstance(driver, Veths)
    driver.close()


@dataclass
class Train:
    """Numbered datagrams that a caller sends, one each ms."""

    caller: Container
    to: Container
    version: int
    sent: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Train:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        self._socket = self.caller.socket(family, socket.SOCK_DGRAM)
        self._socket.connect((_address(self.to, self.version), 9000))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._end.wait(0.001):
            self._socket.send(struct.pack("!I", self.sent))
            self.sent += 1

    def stop(self) -> None:
        """No more of them."""
        self._end.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._socket.close()


def _address(container: Container, version: int) -> str:
    return container.v4 if version == 4 else container.v6


def _inbox(container: Container, version: int) -> socket.socket:
    inbox = container.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    inbox.bind(("" if version == 4 else "::", 9000))
    return inbox


def _numbers(inbox: socket.socket, patience: float = 0.3) -> list[int]:
    inbox.settimeout(patience)
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(struct.unpack("!I", inbox.recv(100))[0])
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", [1, 2], ids=["near", "peer"])
def test_nothing_is_lost_that_comes_when_it_is_expected(move: Move, version: int, who: int) -> None:
    """And nothing comes twice."""
    move.expect()
    with _inbox(move.target, version) as inbox, Train(move.callers[who], move.source, version) as train:
        time.sleep(_HELD)
        move.arrive()
        time.sleep(0.02)
        train.stop()
        assert sorted(_numbers(inbox)) == list(range(train.sent))
        assert train.sent > 50


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("who", [0, 1, 2], ids=["far", "near", "peer"])
def test_nothing_is_lost_that_comes_while_it_moves(move: Move, version: int, who: int) -> None:
    """From before it stands still to after it runs again: each packet reaches the one or the other."""
    with _inbox(move.source, version) as there, _inbox(move.target, version) as here, Train(move.callers[who], move.source, version) as train:
        time.sleep(0.02)
        move.expect()
        time.sleep(_HELD)
        move.arrive()
        time.sleep(0.02)
        train.stop()
        before, after = _numbers(there), _numbers(here)
        assert before and after
        assert sorted(before + after) == list(range(train.sent))


@pytest.mark.parametrize("version", [4, 6])
def test_who_asks_where_it_is_meanwhile_need_not_ask_again(move: Move, version: int) -> None:
    fresh = move.world.placed("gamma", 1, 9)
    move.expect()
    with _inbox(move.target, version) as inbox, Train(fresh, move.source, version) as train:
        time.sleep(_HELD)
        move.arrive()
        began = time.monotonic()
        inbox.settimeout(0.7)  # an address that has to be asked for again costs 1 s
        assert inbox.recv(100)
        print("who asked was answered after", time.monotonic() - began)
        train.stop()


@pytest.mark.parametrize("version", [4, 6])
def test_an_open_connection_waits_no_longer_than_the_container_stands_still(move: Move, version: int) -> None:
    """A client sends every ms, and each is answered. What is held up is so by the freeze alone, not by a retransmission timer."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for one in (move.source, move.target):
        with netns.entered(one.netns):
            for option in ("timestamps", "sack", "window_scaling"):
                Path(f"/proc/sys/net/ipv4/tcp_{option}").write_text("0")
    with move.source.socket(family, socket.SOCK_STREAM) as door, move.peer.socket(family, socket.SOCK_STREAM) as caller:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((_address(move.source, version), 8080))
        door.listen()
        caller.connect((_address(move.source, version), 8080))
        served, _ = door.accept()
        with Echo(served) as before, Client(caller) as client:
            time.sleep(0.1)
            before.stop()
            time.sleep(0.005)  # what it said is there
            held = time.monotonic()
            move.expect()
            unread = before.unread()
            time.sleep(_HELD)
            move.world.attach(move.target, held=True)
            with moved(served, move.target) as there:
                move.bring()
                move.verb("beta", "release")
                with Echo(there, unread):
                    held = time.monotonic() - held
                    move.verb("alpha", "detach")
                    time.sleep(0.3)
                    client.stop()
                    gap = client.gap()
        print(f"{type(move.world.drivers['alpha']).name} IPv{version}: held {held * 1000:.0f} ms, gap {gap * 1000:.0f} ms, retransmissions {client.repeated}")
        assert client.complete(), (len(client._heard), 4 * client._sent)
        assert gap < held + 0.05
        assert held > 0.15 or gap < _RETRANSMISSION


class Echo:
    """Says what it hears."""

    def __init__(self, served: socket.socket, first: bytes = b"") -> None:
        self._served, self._end = served, threading.Event()
        served.settimeout(0.001)
        self._first = first
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Echo:
        self._thread.start()
        return self

    def _run(self) -> None:
        if self._first:
            self._served.sendall(self._first)
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                heard = self._served.recv(65536)
                if not heard:
                    return
                self._served.sendall(heard)

    def stop(self) -> None:
        """From now on it is silent."""
        self._end.set()
        self._thread.join()

    def unread(self) -> bytes:
        """What came since."""
        with contextlib.suppress(BlockingIOError):
            return self._served.recv(1 << 20, socket.MSG_DONTWAIT)
        return b""

    def __exit__(self, *_: object) -> None:
        self.stop()


class Client:
    """Sends a number each ms, and notes when it comes back."""

    def __init__(self, caller: socket.socket) -> None:
        self._caller, self._end, self._sent = caller, threading.Event(), 0
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard, self._times = b"", [time.monotonic()]
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._hear)]

    def __enter__(self) -> Client:
        for thread in self._threads:
            thread.start()
        return self

    def _send(self) -> None:
        while not self._end.wait(0.001):
            self._caller.sendall(struct.pack("!I", self._sent))
            self._sent += 1

    def _hear(self) -> None:
        while not self._end.is_set() or len(self._heard) < 4 * self._sent:
            if select.select([self._caller], [], [], 0.1)[0]:
                self._heard += self._caller.recv(65536)
                self._times.append(time.monotonic())
            elif self._end.is_set() and time.monotonic() > self._times[-1] + 3:
                return

    def stop(self) -> None:
        """Sends no more, and has heard all."""
        self._end.set()
        for thread in self._threads:
            thread.join()

    def gap(self) -> float:
        """The longest silence, in seconds."""
        return max(later - earlier for earlier, later in itertools.pairwise(self._times))

    def complete(self) -> bool:
        """Whether all came back, in order."""
        return self._heard == b"".join(struct.pack("!I", number) for number in range(self._sent))

    @property
    def repeated(self) -> int:
        """Segments that its kernel sent again (``linux/tcp.h``: ``tcpi_total_retrans``)."""
        return int(struct.unpack_from("=I", self._caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])

    def __exit__(self, *_: object) -> None:
        self.stop()


def test_a_failed_move_goes_on_at_the_source_at_once(move: Move) -> None:
    present = {server: _interfaces(move, server) for server in ("alpha", "beta")}
    with _inbox(move.source, 4) as inbox, Train(move.peer, move.source, 4) as train:
        time.sleep(0.02)
        move.expect()
        time.sleep(_HELD)
        move.verb("alpha", "release")
        sent, began = train.sent, time.monotonic()
        while struct.unpack("!I", inbox.recv(100))[0] < sent:
            pass
        assert time.monotonic() - began < 0.1
        move.verb("beta", "detach")
        train.stop()
    for version in (4, 6):
        for one in move.callers:
            assert udp_arrives(one, move.source, version)
            assert udp_arrives(move.source, one, version)
        assert udp_arrives(move.world.placed("gamma", 1, 20 + version), move.source, version, 0.8)  # who asks is told the truth
    with move.world.on("beta"):
        assert not [item for item in move.world.drivers["beta"].inventory() if item.owner == move.source.id]
    closed(move.world.drivers["alpha"])
    assert {server: _interfaces(move, server) for server in ("alpha", "beta")} == present


def _interfaces(move: Move, server: str) -> list[str]:
    with move.world.on(server):
        return netlink.names("")


def test_a_worker_that_dies_while_it_expects_leaves_the_traffic_to_the_source(move: Move) -> None:
    """Its descriptors are closed; another worker, which knows nothing, tidies up."""
    move.expect()
    closed(move.world.drivers["beta"])
    move.verb("alpha", "release")
    for one in move.callers:
        assert udp_arrives(one, move.source, 4, 0.5)
        assert udp_arrives(one, move.source, 6, 0.5)
    with move.world.on("beta"):
        other = move.world.new_driver("beta")
        assert [item.owner for item in other.inventory() if item.kind == "expected"] == [move.source.id]
        other.detach(move.source.id)
        assert not [item for item in other.inventory() if item.owner == move.source.id]
        closed(other)


def test_a_flood_is_bounded_and_the_first_of_it_waits(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PACKETS", 100)
    move.expect()
    with _inbox(move.target, 4) as inbox, move.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.connect((move.source.v4, 9000))
        for number in range(5000):
            caller.send(struct.pack("!I", number))
        time.sleep(0.05)
        move.arrive()
        found = _numbers(inbox)
    assert found[:50] == list(range(50))
    assert len(found) <= 200  # the device's queue, and that before it


def test_what_another_server_brings_is_bounded_and_for_the_container_alone(move: Move) -> None:
    stranger = move.world.placed("beta", 1, 30)
    move.expect()
    frame = udp4(move.peer.v4, stranger.v4, struct.pack("!I", 7), ports=(4000, 9000))
    if not isinstance(move.world.drivers["beta"], Routed):
        frame = ethernet(mac(stranger.link.mac), mac(move.peer.link.mac), 0x0800, frame)
    name = move.source.link.name
    move.world.drivers["beta"].bring(move.source.id, {name: [b"", b"\x45", b"\xff" * 40, bytes(64), frame, *[bytes(9000)] * 5000], "nowhere": [frame]})
    with _inbox(move.target, 4) as inbox, _inbox(stranger, 4) as other:
        move.arrive()
        assert _numbers(inbox, 0.1) == _numbers(other, 0.1) == []
    for one in move.callers:
        assert udp_arrives(one, move.target, 4)


def test_the_tenants_firewall_judges_what_waited(move: Move) -> None:
    rule = FirewallRule(action="drop", direction="in", protocol="udp", ports=(9000, 9000))
    link = move.source.link.model_copy(update={"firewall": (rule,)})
    move.target.link = move.source.link = link
    move.expect()
    with _inbox(move.target, 4) as inbox, Train(move.peer, move.source, 4):
        time.sleep(0.03)
        move.arrive()
        assert _numbers(inbox) == []


def test_what_waits_too_long_is_forgotten(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SECONDS", 0.1)
    present = _interfaces(move, "beta")
    move.expect()
    assert _interfaces(move, "beta") != present
    time.sleep(0.5)
    with _inbox(move.target, 4) as inbox:
        with Train(move.peer, move.source, 4):
            time.sleep(0.05)
        move.arrive()
        assert _numbers(inbox) == []
    for one in move.callers:
        assert udp_arrives(one, move.target, 4)


def test_who_is_here_cannot_be_expected(move: Move) -> None:
    with pytest.raises(Conflict, match="has its link"):
        move.verb("alpha", "expect", move.source.link)
    assert udp_arrives(move.peer, move.source, 4)


def test_expected_twice_is_expected_once(move: Move) -> None:
    move.expect()
    move.verb("beta", "expect", move.source.link)
    with move.world.on("beta"):
        other = move.world.new_driver("beta")
        other.expect(move.source.id, move.source.link)
        closed(other)
    with _inbox(move.target, 4) as inbox, Train(move.peer, move.source, 4) as train:
        time.sleep(0.03)
        move.arrive()
        train.stop()
        assert sorted(_numbers(inbox)) == list(range(train.sent))


def test_what_comes_for_a_container_that_stands_still_waits_too(move: Move) -> None:
    with _inbox(move.source, 4) as inbox, Train(move.peer, move.source, 4) as train:
        time.sleep(0.02)
        move.verb("alpha", "hold")
        time.sleep(_HELD)
        move.verb("alpha", "release")
        time.sleep(0.02)
        train.stop()
        assert sorted(_numbers(inbox)) == list(range(train.sent))
