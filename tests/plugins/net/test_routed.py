"""On the real kernel: routed links from attach to detach, what they may send, and a server that is a router for nobody else."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostler.contracts.driver import Host, Item
from hostler.core.errors import HostFailure, NotFound, Unsupported
from hostler.host import lab, netlink, netns, nftables
from hostler_plugins.net import elements
from hostler_plugins.net.bridge import Bridge
from hostler_plugins.net.elements import Place
from hostler_plugins.net.names import Names
from hostler_plugins.net.routed import Routed
from hostler_plugins.net.veths import Veths
from tests.plugins.net.frames import BROADCAST, arp, ethernet, ip6, mac, neighbour, udp4, udp6
from tests.plugins.net.world import GATEWAY_V4, Container, World, link, tcp_opens, udp_arrives

pytestmark = pytest.mark.lab


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Servers alpha and beta on one switch, each a router."""
    made = World(tmp_path, Routed)
    try:
        made.add_server("alpha", 11)
        made.add_server("beta", 12)
        yield made
    finally:
        made.end()


def _inventory(world: World, server: str = "alpha") -> list[Item]:
    with world.on(server):
        return world.new_driver(server).inventory()


def _proxies(world: World, server: str = "alpha") -> set[str]:
    """Addresses that the server answers for on its uplink."""
    namespace = lab.server_netns(world.installation, server)
    lines = [
        subprocess.run(["ip", "-n", namespace, family, "neigh", "show", "proxy"], capture_output=True, text=True, check=True).stdout.splitlines()
        for family in ("-4", "-6")
    ]
    return {line.split()[0] for found in lines for line in found}


def test_probe_finds_all_here(world: World) -> None:
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        assert driver.probe().lacks == []
        offered = driver.capabilities
    assert all((offered.rate_in, offered.rate_out, offered.anti_spoofing, offered.isolation, offered.firewall, offered.hold))
    assert not offered.shared_l2


@pytest.mark.parametrize("version", [4, 6])
def test_containers_meet_on_one_server_and_across(world: World, version: int) -> None:
    a, mate, b = (world.container(server, link(1, number)) for server, number in (("alpha", 2), ("alpha", 3), ("beta", 4)))
    for one, other in ((a, mate), (a, b), (b, a)):
        assert udp_arrives(one, other, version)
        assert tcp_opens(one, other, version) == "open"


def test_the_providers_network_finds_the_addresses(world: World) -> None:
    """Hosts that know nothing but their own segment: the provider's router, another server."""
    a = world.container("alpha", link(1, 2, reachable=("198.18.0.0/24", "fd00:686f:7374::/120")))
    lab.add_server(world.installation, "router", "198.18.0.1/15", "fd00:686f:7374::1/48")
    for address in (a.v4, a.v6):
        router = lab.server_netns(world.installation, "router")
        subprocess.run(["ip", "netns", "exec", router, "ping", "-c", "1", "-W", "2", address], check=True, stdout=subprocess.DEVNULL, timeout=5)
        subprocess.run(["nsenter", f"--net={a.netns}", "ping", "-c", "1", "-W", "2", "198.18.0.1"], check=True, stdout=subprocess.DEVNULL, timeout=5)


def test_without_proxy_the_server_answers_for_nobody(world: World) -> None:
    world.container("alpha", link(1, 2))
    assert _proxies(world) == {"198.18.1.2", "fd00:686f:7374::c612:102"}
    with world.on("beta"):
        settings = {"net:routed": {"uplink": lab.UPLINK, "proxy": False}}
        world.drivers["beta"] = Routed(Host(world.installation, "beta", world.tmp_path / "beta", world.tmp_path, settings=settings))
    world.container("beta", link(1, 3))
    assert _proxies(world, "beta") == set()


def test_inside_each_address_stands_alone(world: World) -> None:
    a = world.container("alpha", link(1, 2, name="net0", mtu=1400))
    with netns.entered(a.netns), netlink.opened() as inside:
        state = inside.link("net0")
        assert state is not None
        assert (state.mac, state.mtu) == (a.link.mac, 1400)
        assert [str(address) for address in inside.addresses(state.index)] == ["198.18.1.2/32", "fd00:686f:7374::c612:102/128"]
        assert [(route.destination, str(route.gateway)) for route in inside.routes(state.index)] == [("", "169.254.1.1"), ("", "fe80::1")]


@pytest.mark.parametrize("version", [4, 6])
def test_other_accounts_are_out_of_reach(world: World, version: int) -> None:
    a = world.container("alpha", link(1, 2))
    for server in ("alpha", "beta"):
        enemy = world.container(server, link(2, 2 if server == "alpha" else 3))
        assert not udp_arrives(a, enemy, version, 0.3)
        assert not udp_arrives(enemy, a, version, 0.3)


def _outer_mac(world: World, container: Container) -> bytes:
    """What the container sends all its frames to."""
    with world.on(container.server), netlink.opened() as host:
        state = host.link(Names.of(world.drivers[container.server].host, "routed").link(container.id, "eth0"))
    assert state is not None
    return mac(state.mac)


def _sent(sender: Container, receiver: Container, frame: bytes, token: bytes) -> bool:
    """Whether a frame that the sender puts on its interface gets to the receiver as a packet holding ``token``."""
    with receiver.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as seen, sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        seen.bind((receiver.link.name, 3))
        wire.bind((sender.link.name, 0))
        wire.send(frame)
        marker = os.urandom(16)
        with sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as honest:
            honest.sendto(marker, (receiver.v4, 9))
        while True:
            data = seen.recv(2000)
            if token in data:
                return True
            if marker in data:
                return False


def _lies(world: World, a: Container, b: Container, token: bytes) -> dict[str, bytes]:
    to, own = _outer_mac(world, a), mac(a.link.mac)
    link_local = f"fe80::{a.link.mac[6:8]}ff:fe{a.link.mac[9:11]}:{a.link.mac[12:14]}{a.link.mac[15:]}"
    return {
        "an account-mate's address": ethernet(to, own, 0x0800, udp4("198.18.1.77", b.v4, token)),
        "another account's address": ethernet(to, own, 0x0800, udp4("198.18.2.2", b.v4, token)),
        "an address outside": ethernet(to, own, 0x0800, udp4("192.0.2.1", b.v4, token)),
        "the gateway's address": ethernet(to, own, 0x0800, udp4(GATEWAY_V4, b.v4, token)),
        "the server's address": ethernet(to, own, 0x0800, udp4("198.18.0.11", b.v4, token)),
        "another's v6 address": ethernet(to, own, 0x86DD, udp6("fd00:686f:7374::c612:177", b.v6, token)),
        "an address outside, v6": ethernet(to, own, 0x86DD, udp6("fd99::1", b.v6, token)),
        "its link-local address": ethernet(to, own, 0x86DD, udp6(link_local, b.v6, token)),
        "a VLAN tag": to + own + b"\x81\x00\x00\x00\x08\x00" + udp4("198.18.1.77", b.v4, token),
        "a redirect": ethernet(to, own, 0x86DD, ip6(a.v6, b.v6, 58, bytes([137]) + bytes(23) + token, checksum_at=2)),
        "an advertisement": ethernet(to, own, 0x86DD, ip6(a.v6, b.v6, 58, bytes([134]) + bytes(15) + token, checksum_at=2)),
    }


def test_no_lie_passes_and_truth_does(world: World) -> None:
    a, mate, b = (world.container(server, link(1, number)) for server, number in (("alpha", 2), ("alpha", 3), ("beta", 4)))
    to, own = _outer_mac(world, a), mac(a.link.mac)
    token = os.urandom(20)
    for receiver in (mate, b):
        assert udp_arrives(a, receiver, 6)  # from here on no packet waits for a neighbour's answer
        assert _sent(a, receiver, ethernet(to, own, 0x0800, udp4(a.v4, receiver.v4, token)), token)
        assert _sent(a, receiver, ethernet(to, own, 0x86DD, udp6(a.v6, receiver.v6, token)), token)
        lies = _lies(world, a, receiver, os.urandom(20))
        assert [name for name, frame in lies.items() if _sent(a, receiver, frame, frame[-20:])] == []


def test_the_rules_are_what_stops_them(world: World) -> None:
    """Without them most lies pass: the test above can fail."""
    a, b = world.container("alpha", link(1, 2)), world.container("alpha", link(1, 3))
    with world.on("alpha"), nftables.opened() as rules:
        rules.run(elements.remove(Place("inet", Names.of(world.drivers["alpha"].host, "routed").table)))
    token = os.urandom(20)
    passed = {name for name, frame in _lies(world, a, b, token).items() if _sent(a, b, frame, token)}
    assert passed >= {"an account-mate's address", "an address outside", "another's v6 address"}


def test_no_frame_gets_farther_than_the_server(world: World) -> None:
    a, mate = world.container("alpha", link(1, 2)), world.container("alpha", link(1, 3))
    to, own = mac(mate.link.mac), mac(a.link.mac)
    frames = {
        "to a mate's MAC": ethernet(to, own, 0x0800, udp4(a.v4, mate.v4, b"direct")),
        "a broadcast": ethernet(BROADCAST, own, 0x0800, udp4(a.v4, "255.255.255.255", b"all")),
        "an ARP question": ethernet(BROADCAST, own, 0x0806, arp(1, own, a.v4, bytes(6), mate.v4)),
        "a neighbour question": ethernet(mac("33:33:ff:12:01:03"), own, 0x86DD, neighbour(135, a.v6, mate.v6, mate.v6, own)),
        "another protocol": ethernet(to, own, 0x88B5, b"words"),
    }
    assert [name for name, frame in frames.items() if _sent(a, mate, frame, frame[14:40])] == []


def test_lies_in_arp_and_neighbour_discovery_teach_the_server_nothing(world: World) -> None:
    a, mate = world.container("alpha", link(1, 2)), world.container("alpha", link(1, 3))
    own = mac(a.link.mac)
    with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        for claimed in (mate.v4, GATEWAY_V4, "198.18.0.11"):
            wire.send(ethernet(BROADCAST, own, 0x0806, arp(1, own, claimed, bytes(6), claimed)))
            wire.send(ethernet(_outer_mac(world, a), own, 0x0806, arp(2, own, claimed, _outer_mac(world, a), "169.254.1.1")))
        wire.send(ethernet(_outer_mac(world, a), own, 0x86DD, neighbour(136, a.v6, "fd00:686f:7374::b", mate.v6, own)))
    assert udp_arrives(a, mate, 4)
    assert udp_arrives(a, mate, 6)
    namespace = lab.server_netns(world.installation, "alpha")
    known = subprocess.run(["ip", "-n", namespace, "neigh"], capture_output=True, text=True, check=True).stdout
    assert [line for line in known.splitlines() if a.link.mac in line and line.split()[0] not in (a.v4, a.v6)] == []


def test_the_server_forwards_for_nobody_else(world: World) -> None:
    """Two strangers on the segment, one of whom takes alpha for a router."""
    for name, address in (("stranger", "198.18.0.21/15"), ("victim", "198.18.0.22/15")):
        lab.add_server(world.installation, name, address, None)
    stranger = lab.server_netns(world.installation, "stranger")
    subprocess.run(["ip", "-n", stranger, "route", "add", "198.18.0.22/32", "via", "198.18.0.11", "dev", lab.UPLINK], check=True)
    ping = ["ip", "netns", "exec", stranger, "ping", "-c", "1", "-W", "1", "198.18.0.22"]
    assert subprocess.run(ping, stdout=subprocess.DEVNULL, timeout=5).returncode != 0
    world.container("alpha", link(1, 2))
    assert subprocess.run(ping, stdout=subprocess.DEVNULL, timeout=5).returncode != 0


def test_setup_and_teardown_leave_the_kernels_settings_as_they_were(world: World) -> None:
    files = [
        Path("/proc/sys/net") / name
        for name in ("ipv4/conf/up0/forwarding", "ipv6/conf/all/forwarding", "ipv6/conf/up0/proxy_ndp", "ipv6/conf/up0/accept_ra", "ipv4/neigh/up0/proxy_delay")
    ]
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        driver.setup()
        world.new_driver("alpha").setup()
        assert [file.read_text().strip() for file in files] == ["1", "1", "1", "2", "0"]
        driver.teardown()
        driver.teardown()
        assert [file.read_text().strip() for file in files] == ["0", "0", "0", "1", "80"]
        assert driver.inventory() == []


def test_inventory_tells_the_owner_and_detach_leaves_nothing(world: World) -> None:
    a = world.container("alpha", link(1, 2, rate_in=10**7, rate_out=10**7))
    found = _inventory(world)
    assert sorted(item.kind for item in found) == ["link", "link", "record", "rules"]
    assert {item.owner for item in found} == {a.id}
    shutil.rmtree(world.tmp_path / "alpha" / "net" / "routed" / "links")  # even without its files
    with world.on("alpha"):
        world.new_driver("alpha").detach(a.id)
        world.new_driver("alpha").detach(a.id)
        with pytest.raises(NotFound):
            world.drivers["alpha"].counters(a.id)
    assert _inventory(world) == []
    assert _proxies(world) == set()


def test_attaching_again_replaces(world: World) -> None:
    a, mate = world.container("alpha", link(1, 2)), world.container("beta", link(1, 3))
    a.link = link(1, 22)
    world.attach(a)
    assert udp_arrives(mate, a, 4)
    assert udp_arrives(a, mate, 6)
    assert _proxies(world) == {a.v4, a.v6}
    a.link = link(1, 23, network=7)
    with pytest.raises(Unsupported):
        world.attach(a)
    world.detach(a)
    assert (_inventory(world), _proxies(world)) == ([], set())


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may run after it, so the test takes the driver's clean-up away."""


@pytest.mark.parametrize("step", ["add_veth", "ask_nobody", "set_neighbour", "set_host_route", "add_proxy"])
@pytest.mark.parametrize("then", ["detach", "attach"])
def test_killed_in_the_middle_of_attach(world: World, monkeypatch: pytest.MonkeyPatch, step: str, then: str) -> None:
    a = world.container("alpha", link(1, 2), attach=False)
    original: Callable[..., Any] = getattr(netlink.Netlink, step)

    def die(self: netlink.Netlink, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(netlink.Netlink, step, die)
        patch.setattr(Veths, "_remove", lambda *_: None)
        with pytest.raises(_Killed):
            world.attach(a)
    with world.on("alpha"):
        world.drivers["alpha"] = world.new_driver("alpha")
    if then == "attach":
        world.attach(a)
        assert udp_arrives(world.container("beta", link(1, 3)), a, 4)
    world.detach(a)
    assert (_inventory(world), _proxies(world)) == ([], set())


def test_a_failure_leaves_nothing(world: World) -> None:
    a = world.container("alpha", link(1, 2), attach=False)
    with netns.entered(a.netns), netlink.opened() as inside:
        inside.add_veth("eth0", "eth9", mtu=1500)
    with pytest.raises(HostFailure, match="File exists"):
        world.attach(a)
    assert (_inventory(world), _proxies(world)) == ([], set())


def test_the_address_follows_a_container_to_another_server(world: World) -> None:
    """The peer's server has it in its neighbour table, and takes the announcement."""
    peer = world.container("beta", link(1, 3))
    world.add_server("gamma", 13)
    a = world.container("alpha", link(1, 2))
    assert udp_arrives(peer, a, 4) and udp_arrives(peer, a, 6)
    with world.on("alpha"):
        world.drivers["alpha"].hold(a.id)
    twin = world.container("gamma", link(1, 2), attach=False)
    twin.id = a.id
    world.attach(twin, held=True)
    world.detach(a)
    began = time.monotonic()
    with world.on("gamma"):
        world.drivers["gamma"].release(a.id)
    assert udp_arrives(peer, twin, 4) and udp_arrives(peer, twin, 6)
    assert time.monotonic() - began < 0.5


def test_two_drivers_on_one_server_do_not_see_each_other(world: World) -> None:
    a = world.container("alpha", link(1, 2))
    with world.on("alpha"):
        host = world.drivers["alpha"].host
        bridge = Bridge(host)
        bridge.setup()
        assert bridge.inventory() == []
        bridge.detach(a.id)
        bridge.teardown()
    assert udp_arrives(world.container("beta", link(1, 3)), a, 4)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_rates_hold(world: World, direction: str) -> None:
    """UDP beyond the rate: what gets through in a second is the rate."""
    rate = 10_000_000
    a, b = world.container("alpha", link(1, 2, **{f"rate_{direction}": rate})), world.container("beta", link(1, 3))
    sender, receiver = (b, a) if direction == "in" else (a, b)
    with receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox, sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        inbox.bind((receiver.v4, 0))
        outbox.setblocking(False)
        got, began = 0, time.monotonic()
        inbox.setblocking(False)
        while time.monotonic() - began < 2:
            for _ in range(10):
                try:
                    outbox.sendto(bytes(1400), inbox.getsockname())
                except BlockingIOError:
                    break
            try:
                while True:
                    got += len(inbox.recv(2000))
            except BlockingIOError:
                time.sleep(0.001)
    assert 0.8 * rate < got * 8 / 2 < 1.15 * rate
    with world.on("alpha"):
        counted = world.drivers["alpha"].counters(a.id)
        assert (counted.in_bytes if direction == "in" else counted.out_bytes) > got
        world.drivers["alpha"].shape(a.id, None, None)
        assert [item.kind for item in world.drivers["alpha"].inventory()] == ["link", "rules", "record"]


def test_attach_is_quick(world: World) -> None:
    """The quickest counts, and the bound leaves room: a loaded machine only adds."""
    containers = [world.container("alpha", link(1, number), attach=False) for number in range(2, 22)]
    took = []
    for container in containers:
        began = time.perf_counter()
        world.attach(container)
        took.append((time.perf_counter() - began) * 1000)
    print("attach ms", statistics.median(took))
    assert min(took) < 50, sorted(took)
