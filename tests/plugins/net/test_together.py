"""On the real kernel: all drivers set up on the same servers, with the same uplink, each carrying what is its own and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.host import lab, netlink, netns
from hostler_plugins.net.bridge import Bridge
from hostler_plugins.net.routed import Routed
from hostler_plugins.net.veths import Veths
from hostler_plugins.net.vxlan import Vxlan
from tests.plugins.net.world import Container, World, link, tcp_opens, udp_arrives

pytestmark = pytest.mark.lab

_KINDS: tuple[type[Veths], ...] = (Bridge, Routed, Vxlan)
_PEERS = ("198.18.0.11", "198.18.0.12")
_NETWORK: dict[type[Veths], dict[str, object]] = {Vxlan: {"network": 7, "pool": (), "gateways": ()}}


class Crowd:
    """Servers alpha and beta, each with every driver."""

    def __init__(self, world: World, order: tuple[type[Veths], ...] = _KINDS) -> None:
        self.world = world
        self.drivers: dict[tuple[str, type[Veths]], Veths] = {}
        for server, number in (("alpha", 11), ("beta", 12)):
            lab.add_server(world.installation, server, f"198.18.0.{number}/15", f"fd00:686f:7374::{number:x}/48")
            settings: dict[str, dict[str, object]] = {f"net:{kind.name}": {"uplink": lab.UPLINK} for kind in order}
            settings.setdefault("net:vxlan", {})["peers"] = _PEERS
            with world.on(server):
                for kind in order:
                    host = Host(world.installation, server, world.tmp_path / server, world.tmp_path, settings=settings)
                    self.drivers[server, kind] = kind(host)
                    self.drivers[server, kind].setup()

    def placed(self, kind: type[Veths], server: str, number: int) -> Container:
        """A container with a link by one of the drivers."""
        made = self.world.container(server, link(1, number, **_NETWORK.get(kind, {})), attach=False)
        with self.world.on(server):
            self.drivers[server, kind].attach(made.id, made.link, made.process.pid)
        return made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Nothing in it yet."""
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def crowd(world: World) -> Crowd:
    """See the class."""
    return Crowd(world)


def test_each_driver_carries_both_families_beside_the_others(crowd: Crowd) -> None:
    pairs = [(crowd.placed(kind, "alpha", 10 * at + 2), crowd.placed(kind, "beta", 10 * at + 3)) for at, kind in enumerate(_KINDS)]
    for version in (4, 6):
        for one, other in pairs:
            assert udp_arrives(one, other, version) and udp_arrives(other, one, version)
            assert tcp_opens(one, other, version) == "open"
    (bridged, _), (routed, far), (private, _) = pairs
    for version in (4, 6):  # an account's containers meet whatever their drivers, but for those in networks of their own
        assert udp_arrives(bridged, routed, version) and udp_arrives(routed, bridged, version)
        assert udp_arrives(bridged, far, version)
        assert tcp_opens(bridged, private, version, 0.3) == "lost"


def test_the_rules_for_handed_on_frames_are_what_lets_them_pass(crowd: Crowd) -> None:
    """Without them the bridge's IPv6 is lost: the test above can fail."""
    one, other = crowd.placed(Bridge, "alpha", 2), crowd.placed(Bridge, "beta", 3)
    assert udp_arrives(one, other, 6)
    table = f"hostler_{crowd.world.installation}_alpha_routed"
    namespace = lab.server_netns(crowd.world.installation, "alpha")
    subprocess.run(["ip", "netns", "exec", namespace, "nft", f"flush chain bridge {table} before"], check=True)
    assert not udp_arrives(one, other, 6, 0.3)


@pytest.mark.parametrize("version", [4, 6])
def test_the_server_routes_between_its_bridges_for_nobody(crowd: Crowd, version: int) -> None:
    """A stranger on a second bridge of the server, whose frames that bridge hands on, and whose packets the server does not route."""
    net = "192.0.2" if version == 4 else "fd99:"
    with crowd.world.on("alpha"), netlink.opened() as host:
        host.add_bridge("other", mtu=1500)
        host.set_link(host.index("other"), up=True)
        subprocess.run(["ip", "addr", "add", f"{net}{'.' if version == 4 else ':'}1/{24 if version == 4 else 64}", "dev", "other", *_nodad(version)], check=True)
        Path("/proc/sys/net/ipv4/conf/other/forwarding").write_text("1")
    strangers = [crowd.world.container("alpha", link(9, number), attach=False) for number in (2, 3)]
    addresses = [f"{net}{'.' if version == 4 else ':'}{number}" for number in (2, 3)]
    for at, (stranger, address) in enumerate(zip(strangers, addresses, strict=True)):
        with crowd.world.on("alpha"), netlink.opened() as host, netns.opened(stranger.netns) as inside:
            host.add_veth(f"st{at}", "eth0", mtu=1500, peer_netns=inside, master=host.index("other"))
            host.set_link(host.index(f"st{at}"), up=True)
        _inside(stranger, f"ip addr add {address}/{24 if version == 4 else 64} dev eth0 {' '.join(_nodad(version))}")
        _inside(stranger, "ip link set eth0 up")
        _inside(stranger, f"ip route add default via {net}{'.' if version == 4 else ':'}1")
    beta = "198.18.0.12" if version == 4 else "fd00:686f:7374::c"
    with crowd.world.on("beta"):
        subprocess.run(["ip", "route", "add", f"{net}{'.0/24' if version == 4 else ':/64'}", "via", beta[:-1] + ("1" if version == 4 else "b")], check=True)
    assert _pings(strangers[0], addresses[1])
    assert _pings(strangers[0], "198.18.0.11" if version == 4 else "fd00:686f:7374::b")
    assert not _pings(strangers[0], beta)
    namespace = lab.server_netns(crowd.world.installation, "alpha")
    for family in ("inet", "bridge"):  # without the rules it does: the line above can fail
        subprocess.run(["ip", "netns", "exec", namespace, "nft", f"delete table {family} hostler_{crowd.world.installation}_alpha_routed"], check=True)
    assert _pings(strangers[0], beta)


def test_the_order_of_set_up_does_not_matter(world: World) -> None:
    crowd = Crowd(world, (Vxlan, Routed, Bridge))
    one, other = crowd.placed(Routed, "alpha", 2), crowd.placed(Routed, "beta", 3)
    for version in (4, 6):
        assert udp_arrives(one, other, version) and udp_arrives(other, one, version)


def _nodad(version: int) -> list[str]:
    return ["nodad"] if version == 6 else []


def _inside(container: Container, command: str) -> None:
    subprocess.run(["nsenter", f"--net={container.netns}", *command.split()], check=True)


def _pings(container: Container, address: str) -> bool:
    ping = ["nsenter", f"--net={container.netns}", "ping", "-c", "5", "-i", "0.3", "-W", "1", address]  # some, where neighbours are asked first
    return subprocess.run(ping, stdout=subprocess.DEVNULL, timeout=5).returncode == 0
