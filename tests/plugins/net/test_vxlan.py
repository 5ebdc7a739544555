"""On the real kernel: tenants' networks across servers, with the same addresses in each."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.core.errors import HostFailure, Unsupported
from hostler.host import lab, netlink
from hostler_plugins.net.names import Names
from hostler_plugins.net.vxlan import Vxlan
from tests.plugins.net.frames import BROADCAST, arp, ethernet, ip6, mac, udp4, udp6
from tests.plugins.net.world import Container, World, link, tcp_opens, udp_arrives

pytestmark = pytest.mark.lab

_NO_POOL: dict[str, object] = {"pool": (), "gateways": ()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Servers alpha and beta on one switch."""
    made = World(tmp_path, Vxlan, more={"peers": ("198.18.0.11", "198.18.0.12")})
    try:
        made.add_server("alpha", 11)
        made.add_server("beta", 12)
        yield made
    finally:
        made.end()


def _in(world: World, server: str, network: int, number: int) -> Container:
    return world.container(server, link(1, number, network=network, **_NO_POOL))


def _kinds(world: World, server: str = "alpha") -> list[str]:
    with world.on(server):
        return sorted(item.kind for item in world.new_driver(server).inventory())


def test_probe(world: World) -> None:
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        assert driver.probe().usable
        assert driver.capabilities.tenant_networks and driver.capabilities.firewall and not driver.capabilities.shared_l2
        lost = Vxlan(Host("x", "y", world.tmp_path, world.tmp_path, settings={"net:vxlan": {"uplink": "eth7"}}))
        assert not lost.probe().usable
        with pytest.raises(HostFailure, match="eth7"):
            lost.setup()
        lost.teardown()


@pytest.mark.parametrize("version", [4, 6])
def test_a_network_spans_servers_and_no_other_has_part(world: World, version: int) -> None:
    """Networks 7 and 8 have the same two addresses, each on two servers."""
    seven = _in(world, "alpha", 7, 2), _in(world, "beta", 7, 3)
    eight = _in(world, "beta", 8, 2), _in(world, "alpha", 8, 3)
    for one, other in (seven, seven[::-1], eight, eight[::-1]):
        assert udp_arrives(one, other, version)
        assert tcp_opens(one, other, version) == "open"
    world.detach(seven[1])  # whose address is now in network 8 alone
    assert tcp_opens(seven[0], eight[1], version, 0.3) == "lost"
    assert udp_arrives(*eight, version)


def _heard(sender: Container, listeners: list[Container], frames: dict[str, bytes], token: bytes) -> set[tuple[str, int]]:
    """Which of the frames got to which listener."""
    found = set()
    with sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((sender.link.name, 0))
        for name, frame in frames.items():
            for number, listener in enumerate(listeners):
                with listener.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen:
                    seen.bind((listener.link.name, 3))
                    seen.settimeout(0.1)
                    wire.send(frame)
                    try:
                        while True:
                            if token in seen.recv(2000):
                                found.add((name, number))
                                break
                    except TimeoutError:
                        continue
    return found


def test_no_frame_crosses_networks_and_no_lie_passes_within(world: World) -> None:
    a, mate = _in(world, "alpha", 7, 2), _in(world, "beta", 7, 3)
    strangers = [_in(world, "alpha", 8, 3), _in(world, "beta", 8, 4)]
    assert udp_arrives(a, mate, 4) and udp_arrives(a, mate, 6)
    own, to = mac(a.link.mac), mac(mate.link.mac)
    token = os.urandom(20)
    honest = {"v4": ethernet(to, own, 0x0800, udp4(a.v4, mate.v4, token)), "v6": ethernet(to, own, 0x86DD, udp6(a.v6, mate.v6, token))}
    assert _heard(a, [mate], honest, token) == {("v4", 0), ("v6", 0)}
    assert _heard(a, strangers, honest, token) == set()
    lies = {
        "another's address": ethernet(to, own, 0x0800, udp4("198.18.1.9", mate.v4, token)),
        "another's v6 address": ethernet(to, own, 0x86DD, udp6("fd00:686f:7374::9", mate.v6, token)),
        "another's MAC": ethernet(to, mac("02:00:00:00:00:99"), 0x0800, udp4(a.v4, mate.v4, token)),
        "broadcast": ethernet(BROADCAST, own, 0x0800, udp4(a.v4, "255.255.255.255", token)),
        "advertisement": ethernet(to, own, 0x86DD, ip6(a.v6, mate.v6, 58, bytes([134]) + bytes(15) + token, checksum_at=2)),
    }
    assert _heard(a, [mate, *strangers], lies, token) == set()


def test_servers_are_not_in_tenants_networks(world: World) -> None:
    a = _in(world, "alpha", 7, 2)
    own = mac(a.link.mac)
    with world.on("alpha"), netlink.opened() as host:
        bridge = host.link(netlink.names("n")[0])
        assert bridge is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
            inbox.bind(("198.18.0.11", 4000))
            inbox.settimeout(0.2)
            with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
                wire.bind(("eth0", 0))
                wire.send(ethernet(mac(bridge.mac), own, 0x0800, udp4(a.v4, "198.18.0.11", b"hello")))
                wire.settimeout(0.2)
                wire.send(ethernet(BROADCAST, own, 0x0806, arp(1, own, a.v4, bytes(6), "198.18.0.11")))
                with pytest.raises(TimeoutError):
                    inbox.recv(100)
            with a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as seen:
                seen.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    seen.recv(100)


def test_a_tunnel_takes_from_peers_alone(world: World) -> None:
    """The same packet, from a server that is a peer and from one that is not."""
    a = _in(world, "alpha", 7, 2)
    lab.add_server(world.installation, "stranger", "198.18.0.66/15", None)
    token = os.urandom(20)
    inner = ethernet(mac(a.link.mac), mac("02:00:00:00:00:99"), 0x0800, udp4("198.18.1.3", a.v4, token))
    packet = bytes([8, 0, 0, 0, 0, 0, 7, 0]) + inner
    heard = []
    for server in ("stranger", "beta"):
        with a.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen:
            seen.settimeout(0.3)
            with world.on(server), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
                wire.sendto(packet, ("198.18.0.11", 4789))
            try:
                while token not in seen.recv(2000):
                    pass
                heard.append(server)
            except TimeoutError:
                continue
    assert heard == ["beta"]


def test_a_network_goes_with_its_last_link(world: World) -> None:
    a, mate = _in(world, "alpha", 7, 2), _in(world, "alpha", 7, 3)
    assert _kinds(world) == ["link", "link", "network", "network", "record", "record", "rules", "rules"]
    world.detach(a)
    world.detach(a)
    assert _kinds(world) == ["link", "network", "network", "record", "rules"]
    world.detach(mate)
    assert _kinds(world) == []


def test_what_a_killed_worker_left_is_removed_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a = world.container("alpha", link(1, 2, network=7, **_NO_POOL), attach=False)

    class Killed(BaseException):
        """Stands for SIGKILL."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    for step in ("add_vxlan", "flood_to", "add_veth"):
        with monkeypatch.context() as patch:
            patch.setattr(netlink.Netlink, step, die)
            patch.setattr(Vxlan, "_remove", lambda *_: None)
            with pytest.raises(Killed):
                world.attach(a)
        with world.on("alpha"):
            world.drivers["alpha"] = world.new_driver("alpha")
            world.drivers["alpha"].setup()
            assert "network" not in [item.kind for item in world.drivers["alpha"].inventory()]
        world.attach(a)
        world.detach(a)
        assert _kinds(world) == []


def test_a_link_without_a_network_is_refused(world: World) -> None:
    a = world.container("alpha", link(1, 2), attach=False)
    with pytest.raises(Unsupported):
        world.attach(a)
    assert _kinds(world) == []


def test_packets_as_large_as_the_link_says_pass(world: World) -> None:
    a, b = _in(world, "alpha", 7, 2), _in(world, "beta", 7, 3)
    for address in (b.v4, b.v6):
        size = 1450 - (28 if "." in address else 48)
        ping = ["nsenter", f"--net={a.netns}", "ping", "-M", "do", "-s", str(size), "-c", "1", "-W", "2", address]
        subprocess.run(ping, check=True, stdout=subprocess.DEVNULL, timeout=5)


def test_the_address_follows_a_container_to_another_server(world: World) -> None:
    peer, a = _in(world, "beta", 7, 3), _in(world, "alpha", 7, 2)
    assert udp_arrives(peer, a, 4)
    world.detach(a)
    twin = _in(world, "beta", 7, 2)
    assert udp_arrives(peer, twin, 4, 0.5) and udp_arrives(peer, twin, 6, 0.5)


def test_names_hold_the_driver() -> None:
    assert Names("main", "alpha", "vxlan").links != Names("main", "alpha").links
