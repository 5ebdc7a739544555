"""rtnetlink on the real kernel, in namespaces of the test's own."""

from __future__ import annotations

import ipaddress
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.core.errors import HostFailure
from hostler.host import netlink, netns

pytestmark = pytest.mark.lab

V4, V6 = ipaddress.ip_interface("198.18.3.4/15"), ipaddress.ip_interface("fd00::4/48")


def test_links_are_made_changed_and_deleted() -> None:
    def work() -> None:
        with netlink.opened() as host:
            host.add_bridge("br0", mtu=1400, mac="02:00:00:00:00:01")
            host.add_veth("v0", "p0", mtu=1400, peer_mac="02:00:00:00:00:02", master=host.index("br0"))
            for name in ("br0", "v0", "p0"):
                host.set_link(host.index(name), up=True, alias=f"I am {name}")
            port, peer = host.link("v0"), host.link("p0")
            assert port is not None and peer is not None
            assert (port.kind, port.master, port.alias, port.mtu) == ("veth", host.index("br0"), "I am v0", 1400)
            assert peer.mac == "02:00:00:00:00:02"
            assert port.operational and peer.operational
            assert netlink.names("v") == ["v0"]
            assert {link.name for link in host.links()} >= {"lo", "br0", "v0", "p0"}
            assert host.delete_link("v0")
            assert not host.delete_link("v0")
            assert host.link("p0") is None
            assert netlink.index("v0") is None

    netns.inside_new(work)


def test_several_links_are_deleted_at_once_and_no_others() -> None:
    def work() -> None:
        with netlink.opened() as host:
            for number in range(4):
                host.add_veth(f"v{number}", f"p{number}", mtu=1500)
            host.delete_links(["v0", "v1", "v1", "gone"])
            host.delete_links(["v2"])
            host.delete_links(["v0", "v2"])
            assert netlink.names("v") == ["v3"]

    netns.inside_new(work)


def test_addresses_and_routes_are_set_again_without_harm() -> None:
    def work() -> None:
        gateway = netlink.Route("", ipaddress.ip_address("198.18.0.1"), None)
        gateway6 = netlink.Route("2001:db8::/32", ipaddress.ip_address("fd00::1"), 7)
        with netlink.opened() as host:
            host.add_veth("v0", "p0", mtu=1500)
            index = host.index("v0")
            host.set_link(index, up=True)
            host.set_link(host.index("p0"), up=True)
            for _ in range(2):
                host.add_address(index, V4)
                host.add_address(index, V6)
                host.set_route(index, gateway)
                host.set_route(index, gateway6)
            assert host.addresses(index) == [V4, V6]
            assert host.addresses(host.index("p0")) == []
            assert host.routes(index) == [gateway, gateway6]
            assert host.routes(host.index("p0")) == []
            for _ in range(2):
                host.delete_address(index, V4)
                host.delete_address(index, V6)
            assert host.addresses(index) == []

    netns.inside_new(work)


def test_rates_and_redirects_come_and_go() -> None:
    def work() -> None:
        with netlink.opened() as host:
            host.add_veth("v0", "p0", mtu=1500)
            host.add_ifb("i0")
            index = host.index("v0")
            for _ in range(2):
                host.limit_rate(index, 125_000, burst=16_384, queue=65_536)
            host.redirect_arrivals(index, host.index("i0"))
            for _ in range(2):
                host.unlimit_rate(index)
                host.keep_arrivals(index)

    netns.inside_new(work)


def test_failures_are_told_in_words() -> None:
    def work() -> None:
        with netlink.opened() as host:
            with pytest.raises(HostFailure, match="no interface nowhere") as absent:
                host.index("nowhere")
            assert netlink.absent(absent.value)
            host.add_bridge("br0", mtu=1500)
            with pytest.raises(HostFailure, match="make bridge br0: File exists") as taken:
                host.add_bridge("br0", mtu=1500)
            assert not netlink.absent(taken.value)
            assert taken.value.hint

    netns.inside_new(work)


def test_a_pair_into_another_namespace() -> None:
    def work() -> None:
        def other() -> None:
            with netns.opened(Path("/proc/thread-self/ns/net")) as there:
                with netns.entered(home), netlink.opened() as host:
                    host.add_veth("v0", "eth0", mtu=1500, peer_netns=there)
                    assert host.link("eth0") is None
                assert netlink.index("eth0") is not None

        with netns.opened(Path("/proc/thread-self/ns/net")) as home:
            netns.inside_new(other)

    netns.inside_new(work)


def test_many_threads_each_with_their_own_socket() -> None:
    def work() -> None:
        with netns.opened(Path("/proc/thread-self/ns/net")) as here:

            def one(number: int) -> None:
                with netns.entered(here), netlink.opened() as host:
                    host.add_veth(f"v{number}", f"p{number}", mtu=1500)
                    host.set_link(host.index(f"v{number}"), up=True)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(one, range(40)))
            assert len(netlink.names("v")) == 40

    netns.inside_new(work)


def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with netlink.opened() as host:
            host.links()
    assert len(os.listdir("/proc/self/fd")) == before


def test_host_routes_neighbours_and_proxies() -> None:
    def work() -> None:
        with netlink.opened() as host:
            host.add_veth("v0", "p0", mtu=1500)
            v0 = host.index("v0")
            for name in ("v0", "p0"):
                host.set_link(host.index(name), up=True)
            host.ask_nobody(v0)
            for interface in (V4, V6):
                for _ in range(2):
                    host.set_neighbour(v0, interface.ip, "02:00:00:00:00:09")
                    host.set_host_route(v0, interface.ip)
                    host.add_proxy(v0, interface.ip)
            shown = _shown("neigh")
            assert [line.split()[0] for line in shown if "02:00:00:00:00:09 PERMANENT" in line] == [str(V4.ip), str(V6.ip)]
            assert [line.split()[0] for line in _shown("neigh", "show", "proxy")] == [str(V4.ip), str(V6.ip)]
            assert [line.split()[:3] for line in _shown("-4", "route") + _shown("-6", "route")][:2] == [[str(i.ip), "dev", "v0"] for i in (V4, V6)]
            for interface in (V4, V6):
                host.delete_proxy(v0, interface.ip)
                host.delete_proxy(v0, interface.ip)
            assert _shown("neigh", "show", "proxy") == []

    netns.inside_new(work)


def _shown(*words: str) -> list[str]:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.splitlines()


def test_tunnels() -> None:
    def work() -> None:
        with netlink.opened() as host:
            host.add_bridge("br0", mtu=1430)
            br0 = host.index("br0")
            host.add_vxlan("x0", 7, local=ipaddress.ip_address("fd00::1"), port=4789, mtu=1430, master=br0)
            for _ in range(2):
                host.flood_to(host.index("x0"), ipaddress.ip_address("fd00::2"))
            assert host.ports(br0) == ["x0"]
            state = host.link("x0")
            assert state is not None and (state.kind, state.mtu, state.master) == ("vxlan", 1430, br0)
            with pytest.raises(HostFailure, match="tunnel 7"):
                host.add_vxlan("x1", 7, local=ipaddress.ip_address("fd00::1"), port=4789, mtu=1430, master=br0)

    netns.inside_new(work)
