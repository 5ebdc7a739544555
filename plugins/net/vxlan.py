"""Driver ``vxlan``: tenants' own networks across servers, one bridge and one tunnel end (RFC 7348) for each on every server that has
containers in it. Addresses may overlap with other networks': nothing but the network's number joins two links.

Each tunnel sends to the servers named in the settings, and takes from them alone. What is in a tunnel is not encrypted: the
servers' own network must be trusted, as for any use of VXLAN. Servers themselves have no address in tenants' networks and take nothing
from them. What a link may send is in :mod:`.guard`, as on the provider's bridge.
"""

from __future__ import annotations

import functools
import ipaddress
import threading
from collections.abc import Iterable

from pydantic import Field, IPvAnyAddress

from hostler.contracts.driver import Host, Item, Lack, Probe, Settings
from hostler.contracts.net import NetCapabilities
from hostler.core.errors import HostFailure, Unsupported
from hostler.core.names import link_name
from hostler.core.specs import Link
from hostler.host import netlink
from hostler.host.netlink import Address, LinkState, Netlink
from hostler.host.tap import Tap
from hostler_plugins.net import elements, guard, interior, trial, uplink, waiting
from hostler_plugins.net.announce import Announcer
from hostler_plugins.net.elements import Element, Place
from hostler_plugins.net.filters import Direction
from hostler_plugins.net.veths import Veths, wait_until_operational

#: Bytes that a tunnel adds: Ethernet, VXLAN and UDP headers, and those of IPv4 or IPv6.
_OVERHEAD = {4: 50, 6: 70}


class VxlanSettings(Settings):
    """Of driver ``vxlan``."""

    uplink: str = Field(default="", max_length=netlink.NAME_LIMIT, description="the interface that has this server's address among the peers")
    peers: tuple[IPvAnyAddress, ...] = Field(default=(), description="the other servers' addresses, all of one family; this server's own may be among them")
    port: int = Field(default=4789, ge=1, le=65535, description="UDP port of the tunnels, the same on all servers")


class Vxlan(Veths):
    """See the module."""

    name = "vxlan"
    settings_model = VxlanSettings
    settings: VxlanSettings
    family = "bridge"
    sets = guard.SETS
    register = guard.REGISTER
    surname = "vxlan"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._networks = threading.Lock()  # a network comes with its first link and goes with its last
        self._whole: dict[int, tuple[LinkState, int]] = {}  # networks that this driver has seen to: bridge, and index of the tunnel

    @functools.cached_property
    def _announcer(self) -> Announcer:
        return Announcer("")

    @functools.cached_property
    def _trial(self) -> trial.Outcome:
        return trial.of_bridges()

    @property
    def _refusing(self) -> frozenset[Direction]:
        return self._trial.refusing

    def _bridge(self, number: int) -> str:
        return link_name("n", self._names.seed, f"network {number}")

    def _tunnel(self, number: int) -> str:
        return link_name("x", self._names.seed, f"network {number}")

    @property
    def _doorkeeper(self) -> Place:
        """The table that lets only peers into the tunnels."""
        return Place("inet", self._names.table)

    # --- the host ---

    @property
    def capabilities(self) -> NetCapabilities:
        lacks = self._trial
        guarded = lacks.rules is None
        return NetCapabilities(
            rate_in=lacks.rate_in is None,
            rate_out=lacks.rate_out is None,
            anti_spoofing=guarded,
            isolation=guarded,
            firewall=lacks.firewall is None,
            hold=guarded,
            expect=guarded and lacks.waiting is None,
            tenant_networks=guarded,
        )

    def lacks_for(self, link: Link) -> Lack | None:
        if self.settings.peers:
            return None
        return Lack(what="peers: its networks end on this server", remedy="set the driver's peers to the servers' addresses", blocks=True)

    def probe(self) -> Probe:
        lacks = [Lack(what=what, remedy=remedy, blocks=blocks) for what, remedy, blocks in self._trial.lacks()]
        try:
            with netlink.opened() as host:
                self._local(host)
        except HostFailure as error:
            lacks.append(Lack(what=error.message, remedy=error.hint, blocks=True))
        return Probe(offers=[*self._trial.offers(), "tenants' networks over VXLAN"], lacks=lacks)

    def setup(self) -> None:
        """Also removes networks that a killed worker left without a link."""
        self._nft.run(guard.base(self._place, self._names.links))
        self._nft.run(self._closed_to_servers())
        with netlink.opened() as host:
            self._local(host)
            self._nft.run(self._open_to_peers())
            with self._networks:
                self._remove_empty(host)

    def teardown(self) -> None:
        with netlink.opened() as host, self._networks:
            self._remove_empty(host)
        for place in (self._place, self._doorkeeper):
            self._nft.run(elements.remove(place))
        self.close()

    def close(self) -> None:
        self._announcer.close()
        super().close()

    def _closed_to_servers(self) -> str:
        """What tenants send to the server itself, at the bridge's own MAC, is for nobody."""
        chain = f"{self._place} server"
        lines = [f"add chain {chain} {{ type filter hook input priority -300; policy accept; }}", f"flush chain {chain}"]
        lines += [f'add rule {chain} iifname "{prefix}*" drop' for prefix in (self._names.links, self._tunnels)]
        return "\n".join(lines)

    def _open_to_peers(self) -> str:
        chain = f"{self._doorkeeper} tunnels"
        lines = [f"add table {self._doorkeeper}", f"add chain {chain} {{ type filter hook prerouting priority -350; policy accept; }}", f"flush chain {chain}"]
        for peer in self._peers:
            lines.append(f"add rule {chain} udp dport {self.settings.port} {'ip' if peer.version == 4 else 'ip6'} saddr {peer} accept")
        lines.append(f"add rule {chain} fib daddr type local udp dport {self.settings.port} drop")
        return "\n".join(lines)

    @property
    def _bridges(self) -> str:
        return self._bridge(0)[:5]

    @property
    def _tunnels(self) -> str:
        return self._tunnel(0)[:5]

    @property
    def _peers(self) -> list[Address]:
        return [ipaddress.ip_address(str(peer)) for peer in self.settings.peers]

    def _local(self, host: Netlink) -> Address:
        """This server's address among its peers."""
        version = self._peers[0].version if self._peers else 4
        found = uplink.bearer(host, self.settings.uplink)
        addresses = [] if found is None else [address.ip for address in host.addresses(found.index) if address.version == version]
        if not addresses or any(peer.version != version for peer in self._peers):
            raise HostFailure(
                f"interface {self.settings.uplink or '(none)'} has no address in the peers' one family",
                hint="set the driver's uplink to the interface with this server's address, and peers to the other servers'",
                code="no_uplink",
            )
        return next((address for address in addresses if address in self._peers), addresses[0])

    # --- links ---

    def _check(self, link: Link) -> None:
        if link.network is None:
            raise Unsupported("net driver vxlan makes tenants' own networks only", hint="give the link a network's number, or use driver bridge or routed")
        super()._check(link)

    def _elements(self, name: str, link: Link) -> list[Element]:
        return guard.elements(name, link)

    def _join(self, host: Netlink, container: str, name: str, link: Link, inside: int) -> None:
        number = link.network or 0
        with self._networks:
            bridge = self._network(host, number)
            host.add_veth(name, link.name, mtu=min(link.mtu, bridge.mtu), peer_netns=inside, peer_mac=link.mac, master=bridge.index)
        index = self._shape_new(host, container, name, link)
        host.close_port(index)
        host.set_link(index, alias=self._names.alias(container), up=True, own_ipv6=False)
        interior.configure(inside, link)
        wait_until_operational(host, name)

    def _lead(self, host: Netlink, name: str, link: Link) -> None:
        host.place_mac(host.index(name), link.mac)

    def _lead_to(self, host: Netlink, tap: Tap, container: str, link: Link) -> None:
        with self._networks:
            waiting.join(host, tap, link, self._network(host, link.network or 0), self._names.alias(container))

    def _put_back(self, tap: Tap, link: Link, packets: Iterable[bytes]) -> None:
        waiting.put_frames(tap, link, packets)

    def _network(self, host: Netlink, number: int) -> LinkState:
        """A network's bridge, made where it is missing, and its tunnel."""
        bridge, tunnel = self._bridge(number), self._tunnel(number)
        seen = self._whole.get(number)
        if seen is None or (netlink.index(bridge), netlink.index(tunnel)) != (seen[0].index, seen[1]):
            self._make_network(host, number, bridge, tunnel)
            state = host.link(bridge)
            if state is None:
                raise HostFailure(f"bridge {bridge} is gone", hint="try again", code="no_bridge")
            seen = self._whole[number] = state, host.index(tunnel)
        return seen[0]

    def _make_network(self, host: Netlink, number: int, bridge: str, tunnel: str) -> None:
        """The bridge and the tunnel, or what is missing of them."""
        local = self._local(host)
        outer = host.link(self.settings.uplink)
        mtu = (1500 if outer is None else outer.mtu) - _OVERHEAD[local.version]
        if netlink.index(bridge) is None:
            host.add_bridge(bridge, mtu=mtu)
        index = host.index(bridge)
        host.set_link(index, mtu=mtu, up=True, own_ipv6=False)
        if netlink.index(tunnel) is None:
            host.add_vxlan(tunnel, number, local=local, port=self.settings.port, mtu=mtu, master=index)
        end = host.index(tunnel)
        for peer in self._peers:
            if peer != local:
                host.flood_to(end, peer)
        host.set_link(end, up=True, own_ipv6=False)

    def _remove(self, container: str, links: list[str], more: Iterable[str] = ()) -> None:
        records = [self._records.read(link) for link in links]
        super()._remove(container, links, more)
        numbers = {record.link.network for record in records if record is not None and record.link.network is not None}
        chosen = [self._bridge(number) for number in numbers] if None not in records else None
        with netlink.opened() as host, self._networks:
            self._remove_empty(host, chosen)

    def _remove_empty(self, host: Netlink, chosen: list[str] | None = None) -> None:
        """Networks without a container's link, there or expected, among those of the chosen bridges, or all."""
        for bridge in netlink.names(self._bridges) if chosen is None else chosen:
            index = netlink.index(bridge)
            ports = [] if index is None else host.ports(index)
            if index is not None and not any(port.startswith((self._names.links, self._names.rooms)) for port in ports):
                for name in (*(port for port in ports if port.startswith(self._tunnels)), bridge):  # the tunnel first: without its bridge nobody would find it
                    host.delete_link(name)

    def _announce(self, link: Link) -> None:
        if link.network is not None:
            self._announcer.announce(link, self._bridge(link.network))

    def inventory(self) -> list[Item]:
        """Also the networks, which belong to no container."""
        names = [*netlink.names(self._bridges), *netlink.names(self._tunnels)]
        return [*super().inventory(), *(Item(kind="network", name=name) for name in names)]
