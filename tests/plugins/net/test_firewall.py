"""On the real kernel: tenants' rules and silence, the same with each driver."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Lack
from hostler.core.errors import NotFound
from hostler.core.specs import FirewallRule
from hostler_plugins.net.bridge import Bridge
from hostler_plugins.net.routed import Routed
from hostler_plugins.net.veths import Veths
from hostler_plugins.net.vxlan import Vxlan
from tests.plugins.net.world import Container, World, tcp_opens, udp_arrives

pytestmark = pytest.mark.lab

#: Seconds after which what must not come counts as lost.
_SHORT = 0.25


class Scene:
    """``a`` and ``b`` are of one account, on two servers; ``mate`` is beside ``a``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.driver = world.drivers["alpha"]
        self.a = world.placed("alpha", 1, 2)
        self.mate = world.placed("alpha", 1, 3)
        self.b = world.placed("beta", 1, 4)

    def rules(self, *rules: FirewallRule) -> None:
        """Those of ``a`` from now on."""
        with self.world.on("alpha"):
            self.driver.set_firewall(self.a.id, rules)


@pytest.fixture(scope="module", params=[Bridge, Routed, Vxlan], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Veths]:
    """Each driver in turn."""
    chosen: type[Veths] = request.param
    return chosen


@pytest.fixture(scope="module")
def made(kind: type[Veths], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests of a driver."""
    world = World(Path(tmp_path_factory.mktemp("firewall")), kind)
    if kind is Vxlan:
        world.more, world.network = {"peers": ("198.18.0.11", "198.18.0.12")}, 7
    try:
        world.add_server("alpha", 11)
        world.add_server("beta", 12)
        yield Scene(world)
    finally:
        world.end()


@pytest.fixture
def scene(made: Scene) -> Iterator[Scene]:
    """With no rules at first."""
    made.rules()
    yield made
    made.rules()


def _drop(**more: object) -> FirewallRule:
    return FirewallRule.model_validate({"action": "drop"} | more)


def _accept(**more: object) -> FirewallRule:
    return FirewallRule.model_validate({"action": "accept"} | more)


def _reject(**more: object) -> FirewallRule:
    return FirewallRule.model_validate({"action": "reject"} | more)


@contextlib.contextmanager
def _connected(caller: Container, receiver: Container, version: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with receiver.socket(family, socket.SOCK_STREAM) as door, caller.socket(family, socket.SOCK_STREAM) as near:
        door.bind((receiver.v4 if version == 4 else receiver.v6, 0))
        door.listen()
        near.connect(door.getsockname()[:2])
        far, _ = door.accept()
        with far:
            far.settimeout(3)
            yield near, far


def _talk(near: socket.socket, far: socket.socket) -> None:
    for one, other in ((near, far), (far, near)):
        one.sendall(b"still here")
        assert other.recv(100) == b"still here"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("peer", ["mate", "b"])
def test_nothing_in_but_answers(scene: Scene, version: int, peer: str) -> None:
    other: Container = getattr(scene, peer)
    scene.rules(_drop(direction="in"))
    assert tcp_opens(other, scene.a, version, _SHORT) == "lost"
    assert not udp_arrives(other, scene.a, version, _SHORT)
    assert tcp_opens(scene.a, other, version) == "open"
    assert udp_arrives(scene.a, other, version)
    assert _asks_and_is_answered(scene.a, other, version)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("peer", ["mate", "b"])
def test_nothing_out_but_answers(scene: Scene, version: int, peer: str) -> None:
    other: Container = getattr(scene, peer)
    scene.rules(_drop(direction="out"))
    assert tcp_opens(scene.a, other, version, _SHORT) == "lost"
    assert not udp_arrives(scene.a, other, version, _SHORT)
    assert tcp_opens(other, scene.a, version) == "open"
    assert _asks_and_is_answered(other, scene.a, version)


def _asks_and_is_answered(caller: Container, receiver: Container, version: int) -> bool:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with receiver.socket(family, socket.SOCK_DGRAM) as server, caller.socket(family, socket.SOCK_DGRAM) as client:
        server.bind((receiver.v4 if version == 4 else receiver.v6, 0))
        server.settimeout(_SHORT * 4)
        client.settimeout(_SHORT)
        client.sendto(b"question", server.getsockname()[:2])
        try:
            question, sender = server.recvfrom(100)
            server.sendto(b"answer", sender)
            return client.recv(100) == b"answer"
        except TimeoutError:
            return False


@pytest.mark.parametrize("version", [4, 6])
def test_the_first_that_matches_decides(scene: Scene, version: int) -> None:
    scene.rules(_accept(protocol="tcp", ports=(8000, 8100)), _drop(protocol="tcp"), _accept(protocol="udp"), _drop())
    assert tcp_opens(scene.b, scene.a, version) == "open"
    assert udp_arrives(scene.b, scene.a, version)
    scene.rules(_accept(protocol="tcp", ports=(8081, 8100)), _drop(protocol="tcp"))
    assert tcp_opens(scene.b, scene.a, version, _SHORT) == "lost"
    assert udp_arrives(scene.b, scene.a, version)
    scene.rules(_drop(protocol="udp"))
    assert tcp_opens(scene.b, scene.a, version) == "open"
    assert not udp_arrives(scene.b, scene.a, version, _SHORT)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", ["in", "out"])
def test_of_one_peer_alone(scene: Scene, version: int, direction: str) -> None:
    peer = scene.b.v4 if version == 4 else scene.b.v6
    scene.rules(_drop(direction=direction, peer=peer))
    outward = direction == "out"
    pairs = [((scene.a, other) if outward else (other, scene.a)) for other in (scene.b, scene.mate)]
    assert [tcp_opens(*pair, version, _SHORT) for pair in pairs] == ["lost", "open"]
    assert tcp_opens(*pairs[0], 10 - version) == "open"  # the other family is another peer


def test_everybody_of_a_family(scene: Scene) -> None:
    scene.rules(_drop(peer="0.0.0.0/0"))
    assert tcp_opens(scene.b, scene.a, 4, _SHORT) == "lost"
    assert tcp_opens(scene.b, scene.a, 6) == "open"
    scene.rules(_drop(peer="::/0"))
    assert tcp_opens(scene.b, scene.a, 6, _SHORT) == "lost"
    assert tcp_opens(scene.b, scene.a, 4) == "open"


@pytest.mark.parametrize("version", [4, 6])
def test_ping_is_ruled_and_its_answers_are_not(scene: Scene, version: int) -> None:
    scene.rules(_drop(protocol="icmp"))
    assert not _pings(scene.b, scene.a, version)
    assert _pings(scene.a, scene.b, version)
    scene.rules(_drop(protocol="icmp", direction="out"))
    assert _pings(scene.b, scene.a, version)
    assert not _pings(scene.a, scene.b, version)


def _pings(caller: Container, receiver: Container, version: int) -> bool:
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    request, reply = (8, 0) if version == 4 else (128, 129)
    with caller.socket(family, socket.SOCK_RAW, protocol) as wire:
        wire.settimeout(_SHORT)
        address = receiver.v4 if version == 4 else receiver.v6
        body = bytes([request, 0, 0, 0, 0x12, 0x34, 0, 1])
        wire.sendto(body[:2] + (0xFFFF - (request << 8) - 0x1234 - 1).to_bytes(2, "big") + body[4:], (address, 0))
        deadline = time.monotonic() + _SHORT
        while time.monotonic() < deadline:
            try:
                data = wire.recv(200)
            except TimeoutError:
                return False
            answer = data[20:] if version == 4 else data
            if answer[0] == reply and answer[4:6] == b"\x12\x34":
                return True
    return False


@pytest.mark.parametrize("version", [4, 6])
def test_a_rejection_is_as_the_driver_says(scene: Scene, version: int) -> None:
    answers = not any("rejects" in lack.what for lack in _probed(scene))
    expected = "refused" if answers else "lost"
    scene.rules(_reject(protocol="tcp"), _reject(direction="out", protocol="tcp"))
    assert tcp_opens(scene.b, scene.a, version, _SHORT) == expected
    assert tcp_opens(scene.mate, scene.a, version, _SHORT) == expected
    assert tcp_opens(scene.a, scene.b, version, _SHORT) == expected
    scene.rules(_reject(), _reject(direction="out"))
    assert tcp_opens(scene.b, scene.a, version, _SHORT) == expected
    assert tcp_opens(scene.a, scene.b, version, _SHORT) == expected
    assert _udp_refused(scene.b, scene.a, version) == answers
    assert _udp_refused(scene.a, scene.b, version) == answers


def _probed(scene: Scene) -> list[Lack]:
    with scene.world.on("alpha"):
        return scene.driver.probe().lacks


def _udp_refused(caller: Container, receiver: Container, version: int) -> bool:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with receiver.socket(family, socket.SOCK_DGRAM) as server, caller.socket(family, socket.SOCK_DGRAM) as client:
        server.bind((receiver.v4 if version == 4 else receiver.v6, 0))
        client.settimeout(_SHORT)
        client.connect(server.getsockname()[:2])
        client.send(b"hello")
        try:
            client.recv(100)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        return False


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("opened_by", ["a", "b"])
def test_what_is_open_outlives_every_replacement(scene: Scene, version: int, opened_by: str) -> None:
    pair = (scene.a, scene.b) if opened_by == "a" else (scene.b, scene.a)
    with _connected(*pair, version) as (near, far):
        _talk(near, far)
        for rules in ((_drop(),), (_drop(direction="out"),), (_drop(), _drop(direction="out")), (), (_reject(), _reject(direction="out"))):
            scene.rules(*rules)
            _talk(near, far)


def test_no_packet_sees_half_of_the_rules(scene: Scene) -> None:
    """Two sets of rules that both close a port are exchanged all the time, and nothing ever gets through."""
    filler = tuple(_accept(protocol="udp", ports=(port, port)) for port in range(1, 100))
    variants = ((_drop(protocol="udp"),), (*filler, _drop(protocol="udp")))
    with scene.a.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox, scene.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
        inbox.bind((scene.a.v4, 0))
        inbox.settimeout(0.1)
        scene.rules(*variants[0])
        for number in range(10):
            scene.rules(*variants[number % 2])
            for _ in range(50):
                outbox.sendto(b"no", inbox.getsockname())
        with pytest.raises(TimeoutError):
            inbox.recv(100)
        scene.rules()
        outbox.sendto(b"yes", inbox.getsockname())
        assert inbox.recv(100) == b"yes"


def test_rules_open_nothing_that_isolation_closes(scene: Scene) -> None:
    scene.rules(_accept(), _accept(direction="out"))
    enemy = scene.world.placed("alpha", 2, 2)
    for version in (4, 6):
        assert not udp_arrives(enemy, scene.a, version, _SHORT)
        assert not udp_arrives(scene.a, enemy, version, _SHORT)
    scene.world.detach(enemy)


def test_rules_are_there_from_the_first_packet(scene: Scene) -> None:
    one = scene.world.placed("beta", 1, 20, firewall=(_drop(protocol="tcp"),))
    assert tcp_opens(scene.a, one, 4, _SHORT) == "lost"
    assert udp_arrives(scene.a, one, 4)
    with scene.world.on("beta"):
        driver = scene.world.new_driver("beta")
        assert [item.kind for item in driver.inventory() if item.owner == one.id and item.kind == "firewall"] == ["firewall"]
        driver.detach(one.id)
        driver.detach(one.id)
        assert [item for item in driver.inventory() if item.owner == one.id or item.kind == "firewall"] == []
        with pytest.raises(NotFound):
            driver.set_firewall(one.id, ())


def test_256_rules_are_set_quickly(scene: Scene) -> None:
    rules = [_drop(protocol="tcp", ports=(port, port + 1), peer="198.18.1.0/24") for port in range(1, 257)]
    took = []
    for _ in range(5):
        began = time.perf_counter()
        scene.rules(*rules)
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.5, took


@pytest.mark.parametrize("version", [4, 6])
def test_hold_loses_nothing_and_refuses_nothing(scene: Scene, version: int) -> None:
    with _connected(scene.b, scene.a, version) as (near, far), scene.world.on("alpha"):
        _talk(near, far)
        scene.driver.hold(scene.a.id)
        scene.driver.hold(scene.a.id)
        near.sendall(b"sent while held")
        far.settimeout(_SHORT)
        with pytest.raises(TimeoutError):
            far.recv(100)
        assert tcp_opens(scene.b, scene.a, version, _SHORT) == "lost"
        assert not udp_arrives(scene.a, scene.b, version, _SHORT)
        scene.driver.release(scene.a.id)
        scene.driver.release(scene.a.id)
        far.settimeout(5)
        assert far.recv(100) == b"sent while held"
        _talk(near, far)


def test_a_link_is_held_from_its_beginning(scene: Scene) -> None:
    """As on the server that a container moves to."""
    one = scene.world.placed("beta", 1, 21, attach=False)
    with scene.world.on("beta"):
        driver = scene.world.drivers["beta"]
        for verb in (driver.hold, driver.release):
            with pytest.raises(NotFound):
                verb(one.id)
        scene.world.attach(one, held=True)
        assert not udp_arrives(scene.a, one, 4, _SHORT)
        scene.world.attach(one)  # once more: still held
        assert not udp_arrives(scene.a, one, 4, _SHORT)
        assert not udp_arrives(one, scene.a, 4, _SHORT)
        assert "hold" in [item.kind for item in driver.inventory() if item.owner == one.id]
        scene.world.new_driver("beta").release(one.id)
        assert udp_arrives(scene.a, one, 4)
        assert udp_arrives(scene.a, one, 6)
        driver.hold(one.id)
        driver.detach(one.id)
        assert [item for item in driver.inventory() if item.owner == one.id] == []


def test_what_waits_in_a_slow_link_does_not_come_after_the_hold(scene: Scene) -> None:
    one = scene.world.placed("alpha", 1, 22, rate_in=200_000)
    with one.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox, scene.b.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
        inbox.bind((one.v4, 0))
        for _ in range(60):  # 84 kB: 3 s of it
            outbox.sendto(bytes(1400), inbox.getsockname())
        with scene.world.on("alpha"):
            scene.driver.hold(one.id)
        inbox.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while inbox.recv(2000):
                pass
        inbox.settimeout(_SHORT * 2)
        with pytest.raises(TimeoutError):
            inbox.recv(2000)
    scene.world.detach(one)
