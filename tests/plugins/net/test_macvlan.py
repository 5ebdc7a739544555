"""On the real kernel: children of the uplink from attach to detach, what they may send to the network and to each other, and silence."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host, Item
from hostler.core.errors import HostFailure, NotFound, Unsupported
from hostler.core.specs import FirewallRule
from hostler.host import lab, netlink, netns
from hostler_plugins.net.macvlan import Macvlan
from tests.plugins.net.frames import BROADCAST, arp, arrives, ethernet, ip6, mac, neighbour, send, udp4, udp6
from tests.plugins.net.world import GATEWAY_V4, Container, World, link, tcp_opens, udp_arrives

pytestmark = pytest.mark.lab


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Servers alpha and beta on one switch."""
    made = World(tmp_path, Macvlan)
    try:
        made.add_server("alpha", 11)
        made.add_server("beta", 12)
        yield made
    finally:
        made.end()


def _inventory(world: World, server: str = "alpha") -> list[Item]:
    with world.on(server):
        return world.new_driver(server).inventory()


def test_probe_tells_what_macvlan_cannot(world: World) -> None:
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        probe = driver.probe()
        can = driver.capabilities
        lost = Macvlan(Host("x", "y", world.tmp_path, world.tmp_path, settings={"net:macvlan": {"uplink": "eth7"}}))
        assert not lost.probe().usable
        with pytest.raises(HostFailure, match="eth7"):
            lost.setup()
    assert probe.usable
    assert [lack.what.split(",")[0].split(":")[0] for lack in probe.lacks] == [
        "a server and its own containers cannot reach each other",
        "what a firewall rejects is dropped without an answer",
        "packets for a container that moves are lost while it stands still",
    ]
    assert (can.rate_in, can.rate_out, can.anti_spoofing, can.isolation, can.firewall, can.hold, can.shared_l2) == (True,) * 7
    assert not can.tenant_networks


@pytest.mark.parametrize("version", [4, 6])
def test_containers_meet_on_one_server_and_across_and_their_server_is_out_of_reach(world: World, version: int) -> None:
    a, mate, b = world.placed("alpha", 1, 2), world.placed("alpha", 1, 3), world.placed("beta", 1, 4)
    for one, other in ((a, mate), (a, b), (b, a)):
        assert udp_arrives(one, other, version)
        assert tcp_opens(one, other, version) == "open"
    enemy, far = world.placed("alpha", 2, 2), world.placed("beta", 2, 3)
    for one, other in ((a, enemy), (enemy, a), (a, far), (far, a)):
        assert not udp_arrives(one, other, version, 0.3)
    with world.on("alpha"):
        ping = ["ping", "-c", "1", "-W", "1", a.v4 if version == 4 else a.v6]
        assert subprocess.run(ping, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5).returncode != 0


def _lies(a: Container, b: Container, token: bytes) -> dict[str, bytes]:
    to, own = mac(b.link.mac), mac(a.link.mac)
    return {
        "a mate's address": ethernet(to, own, 0x0800, udp4("198.18.1.77", b.v4, token)),
        "an address outside": ethernet(to, own, 0x0800, udp4("192.0.2.1", b.v4, token)),
        "another's MAC": ethernet(to, mac("02:00:00:00:00:99"), 0x0800, udp4(a.v4, b.v4, token)),
        "another's v6 address": ethernet(to, own, 0x86DD, udp6("fd00:686f:7374::c612:177", b.v6, token)),
        "broadcast": ethernet(BROADCAST, own, 0x0800, udp4(a.v4, "255.255.255.255", token)),
        "an advertisement of a router": ethernet(to, own, 0x86DD, ip6(a.v6, b.v6, 58, bytes([134]) + bytes(15) + token, checksum_at=2)),
        "a VLAN tag": to + own + b"\x81\x00\x00\x00\x08\x00" + udp4(a.v4, b.v4, token),
        "another protocol": ethernet(to, own, 0x88B5, token),
        "the gateway's ARP": ethernet(to, own, 0x0806, arp(2, own, GATEWAY_V4, to, b.v4) + token),
        "a mate's neighbour": ethernet(to, own, 0x86DD, neighbour(136, a.v6, b.v6, "fd00:686f:7374::c612:177", own) + token),
    }


def test_no_lie_passes_to_the_network_nor_to_a_mate_on_the_server(world: World) -> None:
    a, mate, b = world.placed("alpha", 1, 2), world.placed("alpha", 1, 3), world.placed("beta", 1, 4)
    for receiver in (mate, b):
        token = os.urandom(20)
        to, own = mac(receiver.link.mac), mac(a.link.mac)
        assert arrives(ethernet(to, own, 0x0800, udp4(a.v4, receiver.v4, token)), a, receiver, token=token)
        assert arrives(ethernet(to, own, 0x86DD, udp6(a.v6, receiver.v6, token)), a, receiver, token=token)
        lies = _lies(a, receiver, token)
        assert [name for name, frame in lies.items() if arrives(frame, a, receiver, token=token)] == []


def test_the_rules_are_what_stops_them(world: World) -> None:
    """Without them most lies pass: the test above can fail."""
    a, mate = world.placed("alpha", 1, 2), world.placed("alpha", 1, 3)
    for one in (a, mate):
        subprocess.run(["nsenter", f"--net={one.netns}", "nft", "flush ruleset"], check=True)
    token = os.urandom(20)
    passed = {name for name, frame in _lies(a, mate, token).items() if arrives(frame, a, mate, token=token)}
    assert passed >= {"a mate's address", "another's MAC", "another's v6 address", "another protocol"}


def test_a_socket_that_passes_by_the_queues_does_not_pass_by_the_rules(world: World) -> None:
    a, mate = world.placed("alpha", 1, 2), world.placed("alpha", 1, 3)
    token = os.urandom(20)
    with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire, mate.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen:
        wire.bind(("eth0", 0))
        wire.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS: linux/if_packet.h
        send(wire, ethernet(mac(mate.link.mac), mac(a.link.mac), 0x0800, udp4("198.18.1.77", mate.v4, token)))
        wire.send(ethernet(mac(mate.link.mac), mac(a.link.mac), 0x0800, udp4(a.v4, mate.v4, b"honest" + token)))
        while True:
            data = seen.recv(2000)
            if token in data:
                assert b"honest" in data
                return


@pytest.mark.parametrize("direction", ["in", "out"])
def test_rates_hold(world: World, direction: str) -> None:
    rate = 10_000_000
    a, b = world.container("alpha", link(1, 2, **{f"rate_{direction}": rate})), world.placed("alpha", 1, 3)
    sender, receiver = (b, a) if direction == "in" else (a, b)
    with receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox, sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        inbox.bind((receiver.v4, 0))
        outbox.setblocking(False)
        inbox.setblocking(False)
        got, began = 0, time.monotonic()
        while time.monotonic() - began < 2:
            try:
                for _ in range(10):
                    outbox.sendto(bytes(1400), inbox.getsockname())
            except BlockingIOError:
                time.sleep(0.001)
            try:
                while True:
                    got += len(inbox.recv(2000))
            except BlockingIOError:
                time.sleep(0.001)
    assert 0.8 * rate < got * 8 / 2 < 1.15 * rate
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        counted = driver.counters(a.id)
        assert (counted.in_bytes if direction == "in" else counted.out_bytes) > got * 0.9
        driver.shape(a.id, None, None)
        assert sorted(item.kind for item in driver.inventory() if item.owner == a.id) == ["link", "record", "rules"]


def test_a_tenants_firewall_and_silence(world: World) -> None:
    a, mate = world.placed("alpha", 1, 2), world.placed("alpha", 1, 3)
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        driver.set_firewall(a.id, (FirewallRule(action="drop", protocol="tcp", ports=(8080, 8080)),))
        for version in (4, 6):
            assert tcp_opens(mate, a, version, 0.3) == "lost"
            assert tcp_opens(a, mate, version) == "open"
        driver.set_firewall(a.id, ())
        assert tcp_opens(mate, a, 4) == "open"
        driver.hold(a.id)
        driver.hold(a.id)
        assert tcp_opens(mate, a, 4, 0.3) == "lost"
        assert not udp_arrives(a, mate, 6, 0.3)
        world.new_driver("alpha").release(a.id)
        assert tcp_opens(mate, a, 4) == "open"
        assert udp_arrives(a, mate, 6)


def test_inventory_detach_and_what_is_refused(world: World) -> None:
    a = world.placed("alpha", 1, 2, rate_in=10**7, rate_out=10**7)
    found = _inventory(world)
    assert sorted(item.kind for item in found) == ["link", "link", "record", "rules"]
    assert {item.owner for item in found} == {a.id}
    world.detach(a)
    world.detach(a)
    assert _inventory(world) == []
    with netns.entered(a.netns):
        assert netlink.names("") == ["lo"]
    with world.on("alpha"), pytest.raises(NotFound):
        world.drivers["alpha"].counters(a.id)
    a.link = link(1, 2, network=7)
    with pytest.raises(Unsupported):
        world.attach(a)
    a.link = link(1, 2)
    world.attach(a)
    a.process.kill()
    a.process.wait()
    world.detach(a)
    assert _inventory(world) == []


def test_set_up_beside_a_bridge_on_the_same_uplink(world: World) -> None:
    """The uplink is a bridge's port then, and the bridge the parent."""
    with world.on("alpha"), netlink.opened() as host:
        host.add_bridge("br0", mtu=1500)
        host.set_link(host.index("br0"), up=True)
        host.set_link(host.index(lab.UPLINK), master=host.index("br0"))
    a, b = world.placed("alpha", 1, 2), world.placed("beta", 1, 3)
    assert udp_arrives(a, b, 4) and udp_arrives(b, a, 6)
