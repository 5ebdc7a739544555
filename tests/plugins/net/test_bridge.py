"""On the real kernel: the life of links, from attach to detach, with deaths in between."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hostler.contracts.driver import Host, Item
from hostler.core.errors import HostFailure, NotFound, Unsupported
from hostler.host import lab, netlink, netns
from hostler_plugins.net.bridge import Bridge
from tests.plugins.net.world import Container, World, link, udp_arrives

pytestmark = pytest.mark.lab


def _inventory(world: World, server: str = "alpha") -> list[Item]:
    with world.on(server):
        return world.new_driver(server).inventory()


def test_probe_finds_all_here(world: World) -> None:
    with world.on("alpha"):
        began = time.monotonic()
        probe = world.drivers["alpha"].probe()
        assert time.monotonic() - began < 1
    assert probe.usable
    assert [lack.what.split(":")[0] for lack in probe.lacks] == ["what a firewall rejects is dropped without an answer"]
    offered = world.drivers["alpha"].capabilities
    assert (offered.rate_in, offered.rate_out, offered.anti_spoofing, offered.isolation, offered.firewall, offered.hold) == (True,) * 6


def test_probe_tells_of_a_missing_uplink(world: World) -> None:
    with world.on("alpha"):
        driver = Bridge(Host("x", "y", world.tmp_path, world.tmp_path, settings={"net:bridge": {"uplink": "eth7"}}))
        probe = driver.probe()
        assert not probe.usable
        assert [lack.what for lack in probe.lacks if lack.blocks] == ["no interface eth7"]
        with pytest.raises(HostFailure, match="eth7"):
            driver.setup()
        driver.teardown()


def test_setup_moves_the_servers_addresses_and_teardown_gives_them_back(world: World) -> None:
    driver = world.drivers["alpha"]
    with world.on("alpha"):
        bridge = next(name for name in netlink.names("b"))
        with netlink.opened() as host:
            up0, br0 = host.index(lab.UPLINK), host.index(bridge)
            addresses = host.addresses(br0)
            assert [str(address) for address in addresses] == ["198.18.0.11/15", "fd00:686f:7374::b/48"]
            assert host.addresses(up0) == []
            driver.setup()
            driver.setup()
            assert host.addresses(br0) == addresses
            host.add_address(up0, addresses[0])  # as if killed between giving and taking
            driver.setup()
            assert host.addresses(up0) == []
            driver.teardown()
            driver.teardown()
            assert host.addresses(up0) == addresses
        assert netlink.names("b") == []
    lab.add_server(world.installation, "alpha", "198.18.0.11/15", "fd00:686f:7374::b/48")


def test_gateway_routes_go_with_the_addresses(world: World) -> None:
    route = netlink.Route("192.0.2.0/24", ipaddress.ip_address("198.18.0.1"), 50)
    with world.on("alpha"), netlink.opened() as host:
        world.drivers["alpha"].teardown()
        host.set_route(host.index(lab.UPLINK), route)
        world.drivers["alpha"].setup()
        assert host.routes(host.index(netlink.names("b")[0])) == [route]
        world.drivers["alpha"].teardown()
        assert host.routes(host.index(lab.UPLINK)) == [route]


def test_a_container_is_reachable_at_once(world: World) -> None:
    first = world.container("alpha", link(1, 2))
    for number in range(3, 8):
        other = world.container("beta", link(1, number))
        began = time.monotonic()
        assert udp_arrives(first, other, 4)
        assert udp_arrives(first, other, 6)
        assert udp_arrives(other, first, 6)
        assert time.monotonic() - began < 0.5  # a lost neighbour question costs 1 s


def test_inside_is_as_the_link_says(world: World) -> None:
    container = world.container("alpha", link(1, 2, name="net0", mtu=1400))
    with netns.entered(container.netns), netlink.opened() as inside:
        state = inside.link("net0")
        assert state is not None
        assert (state.mac, state.mtu, state.up) == (container.link.mac, 1400, True)
        assert [str(address) for address in inside.addresses(state.index)] == list(container.link.addresses)
        assert [(route.destination, str(route.gateway)) for route in inside.routes(state.index)] == [("", gateway) for gateway in container.link.gateways]
        loopback = inside.link("lo")
        assert loopback is not None and loopback.up


def test_a_link_is_never_wider_than_the_bridge(world: World) -> None:
    container = world.container("alpha", link(1, 2, mtu=9000))
    with netns.entered(container.netns), netlink.opened() as inside:
        state = inside.link("eth0")
    assert state is not None and state.mtu == 1500


def test_inventory_tells_the_owner_to_a_new_worker_and_is_empty_afterwards(world: World) -> None:
    container = world.container("alpha", link(1, 2, rate_in=10**7, rate_out=10**7))
    found = _inventory(world)
    assert sorted(item.kind for item in found) == ["link", "link", "record", "rules"]
    assert {item.owner for item in found} == {container.id}
    shutil.rmtree(world.tmp_path / "alpha")  # even without its files
    found = _inventory(world)
    assert sorted(item.kind for item in found) == ["link", "link", "rules"]
    assert {item.owner for item in found} == {container.id}
    with world.on("alpha"):
        world.new_driver("alpha").detach(container.id)
    assert _inventory(world) == []


def test_detach_twice_and_of_a_stranger(world: World) -> None:
    container = world.container("alpha", link(1, 2))
    neighbour = world.container("alpha", link(1, 3))
    before = [item for item in _inventory(world) if item.owner == neighbour.id]
    world.detach(container)
    world.detach(container)
    assert _inventory(world) == before
    with world.on("alpha"):
        world.drivers["alpha"].detach("never7seen")
        with pytest.raises(NotFound):
            world.drivers["alpha"].counters(container.id)
        with pytest.raises(NotFound):
            world.drivers["alpha"].shape(container.id, 1, 1)


def test_detach_after_the_container_is_gone(world: World) -> None:
    container = world.container("alpha", link(1, 2, rate_out=10**7))
    container.process.kill()
    container.process.wait()
    world.detach(container)
    assert _inventory(world) == []


def test_attaching_again_replaces(world: World) -> None:
    container, mate = world.container("alpha", link(1, 2)), world.container("beta", link(1, 3))
    container.link = link(1, 22, rate_in=10**8)
    world.attach(container)
    assert udp_arrives(mate, container, 4)
    assert udp_arrives(container, mate, 6)
    rules = [item for item in _inventory(world) if item.kind == "rules"]
    assert len(rules) == 1
    world.detach(container)
    assert _inventory(world) == []


def test_two_links_of_one_container(world: World) -> None:
    container = world.container("alpha", link(1, 2))
    with world.on("alpha"):
        driver = world.drivers["alpha"]
        driver.attach(container.id, link(1, 3, name="eth1", gateways=()), container.process.pid)
        assert len([item for item in driver.inventory() if item.kind == "link"]) == 2
        driver.shape(container.id, 10**7, 10**7)
        assert len([item for item in driver.inventory() if item.kind == "link"]) == 4
        driver.detach(container.id)
    assert _inventory(world) == []


def test_a_failure_says_why_and_leaves_nothing(world: World) -> None:
    container = world.container("alpha", link(1, 2), attach=False)
    with netns.entered(container.netns), netlink.opened() as inside:
        inside.add_veth("eth0", "eth9", mtu=1500)
    with pytest.raises(HostFailure, match="File exists"):
        world.attach(container)
    assert _inventory(world) == []
    container.process.kill()
    container.process.wait()
    with pytest.raises(HostFailure) as gone:
        world.attach(container)
    assert gone.value.stable_code == "no_netns"
    assert _inventory(world) == []


def test_what_the_driver_cannot_do_is_refused_not_ignored(world: World) -> None:
    container = world.container("alpha", link(1, 2, network=7), attach=False)
    with pytest.raises(Unsupported):
        world.attach(container)
    assert _inventory(world) == []


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may run after it, so the test takes the driver's clean-up away."""


_STEPS = ("add_veth", "add_ifb", "limit_rate", "redirect_arrivals", "close_port", "add_address", "set_route", "link")


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("then", ["detach", "attach"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_in_the_middle_of_attach(world: World, monkeypatch: pytest.MonkeyPatch, step: str, then: str, when: str) -> None:
    container = world.container("alpha", link(1, 2, rate_in=10**8, rate_out=10**8), attach=False)
    original: Callable[..., Any] = getattr(netlink.Netlink, step)

    def die(self: netlink.Netlink, *args: Any, **more: Any) -> None:
        if when == "after":
            original(self, *args, **more)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(netlink.Netlink, step, die)
        patch.setattr(Bridge, "_remove", lambda *_: None)
        with pytest.raises(_Killed):
            world.attach(container)
    with world.on("alpha"):
        world.drivers["alpha"] = world.new_driver("alpha")
        if then == "attach":
            world.attach(container)
            mate = world.container("alpha", link(1, 3))
            assert udp_arrives(mate, container, 4)
            world.detach(mate)
        world.drivers["alpha"].detach(container.id)
    assert _inventory(world) == []
    with netns.entered(container.netns):
        assert netlink.names("eth") == []


@pytest.mark.parametrize("step", ["delete_links", "withdraw"])
def test_killed_in_the_middle_of_detach(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    container = world.container("alpha", link(1, 2, rate_out=10**8))

    def die(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("hostler_plugins.net.elements.withdraw" if step == "withdraw" else "hostler.host.netlink.Netlink.delete_links", die)
        with pytest.raises(_Killed):
            world.detach(container)
    assert {item.owner for item in _inventory(world)} == {container.id}
    world.detach(container)
    assert _inventory(world) == []


def test_twenty_in_eight_threads(world: World) -> None:
    containers = [world.container("alpha", link(1, number), attach=False) for number in range(2, 22)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(world.attach, containers))
        assert len([item for item in _inventory(world) if item.kind == "link"]) == 20
        for one, other in zip(containers, containers[1:], strict=False):
            assert udp_arrives(one, other, 4)
        list(pool.map(world.detach, containers))
    assert _inventory(world) == []


def test_attach_is_quick(world: World) -> None:
    """6 to 10 ms. The quickest counts, and the bound leaves room: a loaded machine only adds."""
    containers = [world.container("alpha", link(1, number), attach=False) for number in range(2, 22)]
    took = [_milliseconds(world.attach, container) for container in containers]
    assert min(took) < 50, sorted(took)


def _milliseconds(verb: Callable[[Container], None], container: Container) -> float:
    began = time.perf_counter()
    verb(container)
    return (time.perf_counter() - began) * 1000


def test_threads_return_to_their_own_namespace(world: World) -> None:
    container = world.container("alpha", link(1, 2), attach=False)
    before = Path("/proc/thread-self/ns/net").readlink()
    world.attach(container)
    assert Path("/proc/thread-self/ns/net").readlink() == before
    assert threading.active_count() < 10


def test_ping_works_with_the_programs_people_use(world: World) -> None:
    a, b = world.container("alpha", link(1, 2)), world.container("beta", link(1, 3))
    for address in (b.v4, b.v6):
        subprocess.run(
            ["nsenter", f"--net={a.netns}", "ping", "-c", "2", "-i", "0.2", "-W", "2", address], check=True, stdout=subprocess.DEVNULL, timeout=10
        )
