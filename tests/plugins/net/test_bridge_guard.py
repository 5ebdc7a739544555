"""On the real kernel: what a tenant may send, and what no tenant may."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.host import nftables
from hostler_plugins.net import elements
from hostler_plugins.net.elements import Place
from hostler_plugins.net.names import Names
from tests.plugins.net.frames import BROADCAST, arp, arrives, ethernet, ip6, mac, neighbour, udp4, udp6
from tests.plugins.net.world import GATEWAY_V4, World, link, udp_arrives

pytestmark = pytest.mark.lab

OTHER_MAC = mac("02:00:00:00:00:99")


class Scene:
    """``a`` and ``b`` are of one account, on two servers; ``enemy`` is of another, beside ``a``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.a = world.container("alpha", link(1, 2))
        self.b = world.container("beta", link(1, 3))
        self.enemy = world.container("alpha", link(2, 2))

    @property
    def macs(self) -> tuple[bytes, bytes]:
        """Of the receiver and the sender."""
        return mac(self.b.link.mac), mac(self.a.link.mac)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all tests here: they change nothing."""
    world = World(Path(tmp_path_factory.mktemp("scene")))
    try:
        world.add_server("alpha", 11)
        world.add_server("beta", 12)
        yield Scene(world)
    finally:
        world.end()


@pytest.mark.parametrize("version", [4, 6])
def test_own_account_is_reached_across_servers_and_others_are_not(scene: Scene, version: int) -> None:
    assert udp_arrives(scene.a, scene.b, version)
    assert udp_arrives(scene.b, scene.a, version)
    assert not udp_arrives(scene.a, scene.enemy, version, 0.3)
    assert not udp_arrives(scene.enemy, scene.a, version, 0.3)
    assert not udp_arrives(scene.enemy, scene.b, version, 0.3)
    assert not udp_arrives(scene.b, scene.enemy, version, 0.3)


def test_honest_frames_pass(scene: Scene) -> None:
    to, own = scene.macs
    a, b = scene.a, scene.b
    assert arrives(ethernet(to, own, 0x0800, udp4(a.v4, b.v4, os.urandom(20))), a, b)
    assert arrives(ethernet(to, own, 0x86DD, udp6(a.v6, b.v6, os.urandom(20))), a, b)
    assert arrives(ethernet(BROADCAST, own, 0x0806, arp(1, own, a.v4, bytes(6), b.v4)), a, b)
    assert arrives(ethernet(to, own, 0x0806, arp(2, own, a.v4, to, b.v4)), a, b)
    assert arrives(ethernet(to, own, 0x86DD, neighbour(136, a.v6, b.v6, a.v6, own)), a, b)
    assert arrives(ethernet(to, own, 0x86DD, neighbour(135, a.v6, b.v6, b.v6, own)), a, b)


def _lies(scene: Scene) -> dict[str, bytes]:
    to, own = scene.macs
    a, b, enemy = scene.a, scene.b, scene.enemy
    data = os.urandom(20)
    v4, v6 = udp4(a.v4, b.v4, data), udp6(a.v6, b.v6, data)
    advertisement = bytes([134, 0, 0, 0, 64, 0, 7, 8]) + bytes(8)
    link_local = f"fe80::{a.link.mac[6:8]}ff:fe{a.link.mac[9:11]}:{a.link.mac[12:14]}{a.link.mac[15:]}"
    return {
        "another's MAC": ethernet(to, OTHER_MAC, 0x0800, v4),
        "another's MAC, v6": ethernet(to, OTHER_MAC, 0x86DD, v6),
        "another's address": ethernet(to, own, 0x0800, udp4(enemy.v4, b.v4, data)),
        "an account-mate's address": ethernet(to, own, 0x0800, udp4("198.18.1.77", b.v4, data)),
        "an address outside": ethernet(to, own, 0x0800, udp4("192.0.2.1", b.v4, data)),
        "the gateway's address": ethernet(to, own, 0x0800, udp4(GATEWAY_V4, b.v4, data)),
        "another's v6 address": ethernet(to, own, 0x86DD, udp6(enemy.v6, b.v6, data)),
        "no v6 address": ethernet(to, own, 0x86DD, udp6("::", b.v6, data)),
        "a made-up link-local address": ethernet(to, own, 0x86DD, udp6("fe80::1", b.v6, data)),
        "ARP answer for the gateway": ethernet(to, own, 0x0806, arp(2, own, GATEWAY_V4, to, b.v4)),
        "ARP question as the gateway": ethernet(BROADCAST, own, 0x0806, arp(1, own, GATEWAY_V4, bytes(6), b.v4)),
        "ARP with another's MAC inside": ethernet(to, own, 0x0806, arp(2, OTHER_MAC, a.v4, to, b.v4)),
        "ARP for another account": ethernet(BROADCAST, own, 0x0806, arp(1, own, a.v4, bytes(6), enemy.v4)),
        "neighbour answer for another": ethernet(to, own, 0x86DD, neighbour(136, a.v6, b.v6, enemy.v6, own)),
        "neighbour answer for the gateway, from link-local": ethernet(to, own, 0x86DD, neighbour(136, link_local, b.v6, "fd00:686f:7374::1", own)),
        "neighbour question as another": ethernet(to, own, 0x86DD, neighbour(135, enemy.v6, b.v6, b.v6, own)),
        "neighbour question about another account": ethernet(to, own, 0x86DD, neighbour(135, a.v6, b.v6, enemy.v6, own)),
        "router advertisement": ethernet(to, own, 0x86DD, ip6(link_local, "ff02::1", 58, advertisement, checksum_at=2)),
        "router advertisement to one": ethernet(to, own, 0x86DD, ip6(a.v6, b.v6, 58, advertisement, checksum_at=2)),
        "redirect": ethernet(to, own, 0x86DD, ip6(a.v6, b.v6, 58, bytes([137]) + bytes(39), checksum_at=2)),
        "DHCP answer": ethernet(to, own, 0x0800, udp4(a.v4, b.v4, data, ports=(67, 68))),
        "DHCPv6 answer": ethernet(to, own, 0x86DD, udp6(a.v6, b.v6, data, ports=(547, 546))),
        "broadcast": ethernet(BROADCAST, own, 0x0800, udp4(a.v4, "255.255.255.255", data)),
        "multicast": ethernet(mac("01:00:5e:00:00:fb"), own, 0x0800, udp4(a.v4, "224.0.0.251", data)),
        "multicast to one MAC": ethernet(to, own, 0x0800, udp4(a.v4, "224.0.0.251", data)),
        "multicast, v6": ethernet(mac("33:33:00:00:00:fb"), own, 0x86DD, udp6(a.v6, "ff02::fb", data)),
        "link-local to link-local": ethernet(to, own, 0x86DD, udp6(link_local, "fe80::1234", data)),
        "another account's address behind a mate's MAC": ethernet(to, own, 0x0800, udp4(a.v4, enemy.v4, data)),
        "the same, v6": ethernet(to, own, 0x86DD, udp6(a.v6, enemy.v6, data)),
        "another protocol": ethernet(to, own, 0x88B5, data),
        "a spanning tree": ethernet(mac("01:80:c2:00:00:00"), own, 0x0026, bytes.fromhex("424203") + data),
    }


def test_no_lie_passes(scene: Scene) -> None:
    passed = [name for name, frame in _lies(scene).items() if arrives(frame, scene.a, scene.b)]
    assert passed == []


@pytest.mark.parametrize("tags", [b"\x81\x00\x00\x05", b"\x81\x00\x00\x00", b"\x88\xa8\x00\x05\x81\x00\x00\x06"])
def test_a_vlan_tag_hides_nothing(scene: Scene, tags: bytes) -> None:
    to, own = scene.macs
    for source in (scene.a.v4, scene.enemy.v4):
        token = os.urandom(20)
        frame = to + own + tags + b"\x08\x00" + udp4(source, scene.b.v4, token)
        assert not arrives(frame, scene.a, scene.b, token=token)


def test_the_guard_is_what_stops_them(world: World) -> None:
    """Without the rules lies pass: the test above can fail."""
    scene = Scene(world)
    for server, driver in world.drivers.items():
        with world.on(server), nftables.opened() as rules:
            rules.run(elements.remove(Place("bridge", Names.of(driver.host).table)))
    lies = _lies(scene)
    passed = {name for name, frame in lies.items() if arrives(frame, scene.a, scene.b)}
    assert lies.keys() - passed <= {"a spanning tree"}


def test_another_container_is_no_switch_port_to_listen_on(scene: Scene) -> None:
    """What is for a mate's MAC, or for one that nobody has, does not get to the third."""
    a, b = scene.a, scene.b
    third = scene.world.container("beta", link(1, 9))
    own = mac(a.link.mac)
    assert not arrives(ethernet(mac(b.link.mac), own, 0x0800, udp4(a.v4, b.v4, b"private")), a, third)
    assert not arrives(ethernet(OTHER_MAC, own, 0x0800, udp4(a.v4, b.v4, b"private")), a, third)


def test_the_senders_server_stops_them_alone(world: World) -> None:
    """The receiver's server may be anybody's."""
    scene = Scene(world)
    with world.on("beta"), nftables.opened() as rules:
        rules.run(elements.remove(Place("bridge", Names.of(world.drivers["beta"].host).table)))
    assert [name for name, frame in _lies(scene).items() if arrives(frame, scene.a, scene.b)] == []


def test_the_receivers_server_stops_what_nobody_guards(world: World) -> None:
    scene = Scene(world)
    enemy = world.container("beta", link(2, 3))
    with world.on("alpha"), nftables.opened() as rules:
        rules.run(elements.remove(Place("bridge", Names.of(world.drivers["alpha"].host).table)))
    to, own = mac(enemy.link.mac), mac(scene.a.link.mac)
    data = os.urandom(20)
    honest = mac(scene.b.link.mac)
    assert arrives(ethernet(honest, own, 0x0800, udp4(scene.a.v4, scene.b.v4, data)), scene.a, scene.b)
    mate = scene.enemy  # of the same account as `enemy`: its marker frames pass
    assert not arrives(ethernet(to, own, 0x0800, udp4(scene.a.v4, enemy.v4, data)), mate, enemy)
    assert not arrives(ethernet(to, own, 0x86DD, udp6(scene.a.v6, enemy.v6, data)), mate, enemy)
