"""On the real kernel: an address moves from one server to another, held on both in between, as when a container moves while it runs."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostler.contracts.net import Net
from hostler.host import netns
from hostler_plugins.net.bridge import Bridge
from hostler_plugins.net.macvlan import Macvlan
from hostler_plugins.net.routed import Routed
from hostler_plugins.net.vxlan import Vxlan
from tests.plugins.net.repair import moved
from tests.plugins.net.world import Container, World, udp_arrives

pytestmark = pytest.mark.lab

_PEERS: dict[str, object] = {"peers": ("198.18.0.11", "198.18.0.12", "198.18.0.13")}
_SHORT = 0.3


@dataclass
class Move:
    """A container on alpha, its twin that waits on beta with the same link, and who talks to it: on beta, and on a third server."""

    world: World
    source: Container
    target: Container
    near: Container
    peer: Container

    def verb(self, server: str, name: str) -> None:
        """A verb about the container on a server."""
        with self.world.on(server):
            getattr(self.world.drivers[server], name)(self.source.id)

    def hand_over(self) -> None:
        """From held on the source to released on the target."""
        self.verb("beta", "release")
        self.verb("alpha", "detach")


@pytest.fixture(params=[Bridge, Routed, Vxlan, Macvlan], ids=lambda kind: str(kind.name))
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Move]:
    """The target is attached held; the source is live."""
    kind: type[Net] = request.param
    world = World(tmp_path, kind, more=_PEERS if kind is Vxlan else {}, network=7 if kind is Vxlan else None)
    try:
        for name, number in (("alpha", 11), ("beta", 12), ("gamma", 13)):
            world.add_server(name, number)
        source, near, peer = world.placed("alpha", 1, 2), world.placed("beta", 1, 3), world.placed("gamma", 1, 4)
        for one in (near, peer):
            assert udp_arrives(one, source, 4) and udp_arrives(one, source, 6)
        target = world.container("beta", source.link, attach=False)
        target.id = source.id
        world.attach(target, held=True)
        yield Move(world, source, target, near, peer)
    finally:
        world.end()


def _announced(peer: Container, wanted: Container, seconds: float) -> bool:
    """Whether anything comes to the peer that was not asked for and says where the addresses are."""
    until = time.monotonic() + seconds
    with peer.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen:
        seen.settimeout(0.05)
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                frame = seen.recv(2000)
                if frame[:6] == b"\xff" * 6 and socket.inet_aton(wanted.v4) == frame[28:32]:
                    return True
                if frame[:2] == b"\x33\x33" and frame[54:55] == b"\x88":
                    return True
    return False


@pytest.mark.parametrize("version", [4, 6])
def test_a_held_target_takes_nothing_from_the_source(move: Move, version: int) -> None:
    assert not _announced(move.peer, move.source, _SHORT)
    for one in (move.peer, move.near):
        assert udp_arrives(one, move.source, version)
        assert udp_arrives(move.source, one, version)
        assert not udp_arrives(one, move.target, version, _SHORT)
    assert not udp_arrives(move.target, move.peer, version, _SHORT)
    fresh = move.world.placed("beta", 1, 9)  # who has to ask first
    assert udp_arrives(fresh, move.source, version)


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_is_refused_in_between_and_all_comes_here_afterwards(move: Move, version: int) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = move.source.v4 if version == 4 else move.source.v6
    with move.target.socket(family, socket.SOCK_DGRAM) as inbox, move.peer.socket(family, socket.SOCK_DGRAM) as caller:
        inbox.bind((address, 9000))
        caller.connect((address, 9000))
        move.verb("alpha", "hold")
        for number in range(20):
            caller.send(b"%d" % number)  # an answer that refuses it would fail the next
            time.sleep(0.01)
        inbox.settimeout(0.05)
        with pytest.raises(TimeoutError):
            inbox.recv(100)
        began = time.monotonic()
        move.hand_over()
        caller.send(b"after")
        inbox.settimeout(2)
        assert inbox.recv(100) == b"after"
        assert time.monotonic() - began < 0.9  # a neighbour that has to be asked for costs 1 s
    assert udp_arrives(move.near, move.target, version)
    assert udp_arrives(move.target, move.near, version)


def test_a_failed_move_goes_on_at_the_source(move: Move) -> None:
    move.verb("alpha", "hold")
    move.verb("beta", "detach")
    move.verb("alpha", "release")
    for version in (4, 6):
        for one in (move.peer, move.near):
            assert udp_arrives(one, move.source, version)
            assert udp_arrives(move.source, one, version)


def test_there_and_back(move: Move) -> None:
    move.verb("alpha", "hold")
    move.hand_over()
    for version in (4, 6):
        assert udp_arrives(move.peer, move.target, version)
    move.verb("beta", "hold")
    move.world.attach(move.source, held=True)
    move.verb("alpha", "release")
    move.verb("beta", "detach")
    for version in (4, 6):
        for one in (move.peer, move.near):
            assert udp_arrives(one, move.source, version)


@pytest.mark.parametrize("version", [4, 6])
def test_an_open_connection_moves(move: Move, version: int) -> None:
    """The socket is taken from the one and made in the other by TCP repair, as checkpoint and restore do."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = move.source.v4 if version == 4 else move.source.v6
    for one in (move.source, move.target):
        with netns.entered(one.netns):
            for option in ("timestamps", "sack", "window_scaling"):
                Path(f"/proc/sys/net/ipv4/tcp_{option}").write_text("0")
    with move.source.socket(family, socket.SOCK_STREAM) as door, move.peer.socket(family, socket.SOCK_STREAM) as caller:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind((address, 8080))
        door.listen()
        caller.connect((address, 8080))
        served, _ = door.accept()
        caller.sendall(b"before")
        assert served.recv(100) == b"before"
        move.verb("alpha", "hold")
        caller.sendall(b"while held")
        with moved(served, move.target) as there:
            there.settimeout(5)
            time.sleep(0.1)
            began = time.monotonic()
            move.hand_over()
            assert there.recv(100) == b"while held"
            print("held data came after", time.monotonic() - began)
            there.sendall(b"after")
            caller.settimeout(5)
            assert caller.recv(100) == b"after"
