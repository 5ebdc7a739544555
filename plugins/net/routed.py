"""Driver ``routed``: each link a veth pair of its own, and the server a router. What OpenVZ called venet.

Containers share no layer 2 with anybody: a frame of theirs gets to their server and no farther. Inside, an address stands
alone (/32, /128), and everybody else is behind a link-local router whose MAC is fixed, so nobody asks for anybody. Outside, the server
has a route to each address, and answers for them on its uplink (proxy ARP and NDP), or the provider routes them to it.

What a link may send is in :mod:`.gate`; what all such drivers do in :mod:`.veths`.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

from pydantic import Field

from hostler.contracts.driver import Host, Lack, Probe, Settings
from hostler.contracts.net import NetCapabilities
from hostler.core.errors import HostFailure
from hostler.core.specs import Link
from hostler.host import netlink
from hostler.host.netlink import Address, LinkState, Netlink
from hostler.host.tap import Tap
from hostler_plugins.net import gate, interior, trial, uplink, waiting
from hostler_plugins.net.announce import Announcer
from hostler_plugins.net.elements import Element
from hostler_plugins.net.filters import Direction
from hostler_plugins.net.forwarding import Forwarding, forward_from
from hostler_plugins.net.veths import Veths

_DEFAULT_MTU = 1500


class RoutedSettings(Settings):
    """Of driver ``routed``."""

    uplink: str = Field(
        default="", max_length=netlink.NAME_LIMIT, description="the server's interface to its network; empty: containers meet on this server only"
    )
    proxy: bool = Field(default=True, description="answer for containers' addresses on the uplink; false where the network routes them here")


class Routed(Veths):
    """See the module."""

    name = "routed"
    settings_model = RoutedSettings
    settings: RoutedSettings
    family = "inet"
    sets = gate.SETS
    register = gate.REGISTER
    surname = "routed"
    frames = False

    @functools.cached_property
    def _announcer(self) -> Announcer:
        return Announcer("")

    @functools.cached_property
    def _trial(self) -> trial.Outcome:
        return trial.of_routes()

    def _forwarding(self, uplink: str) -> Forwarding:
        return Forwarding(self.folder / "forwarding.json", uplink)

    @property
    def _refusing(self) -> frozenset[Direction]:
        return self._trial.refusing

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._served: str | None = None
        self._last_seen: LinkState | None = None

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
        )

    def lacks_for(self, link: Link) -> Lack | None:
        if self.settings.uplink:
            return None
        return Lack(what="an uplink: its containers meet on this server only", remedy="set the driver's uplink to the interface that leads to the other servers", blocks=True)

    def probe(self) -> Probe:
        lacks = [Lack(what=what, remedy=remedy, blocks=blocks) for what, remedy, blocks in self._trial.lacks()]
        if self.settings.uplink and not netlink.names(self.settings.uplink):
            lacks.append(Lack(what=f"no interface {self.settings.uplink}", remedy="set the driver's uplink to one that `ip link` shows", blocks=True))
        return Probe(offers=self._trial.offers(), lacks=lacks)

    def setup(self) -> None:
        """Rules before forwarding: there is no moment in which the server forwards for strangers that it did not before."""
        with netlink.opened() as host:
            bearer = self._uplink(host)
        self._served = "" if bearer is None else bearer.name
        forwarding = self._forwarding(self._served)
        forwarding.remember()
        closed = gate.Closed(forwarding.uplink if forwarding.v4_was_closed else None, forwarding.v6_was_closed)
        self._nft.run(gate.base(self._place, self._names.links, self._names.rooms, closed))
        forwarding.enable(proxy=self.settings.proxy)

    def teardown(self) -> None:
        self._forwarding(self.settings.uplink).restore()
        self._nft.run(gate.remove(self._place))
        self.close()

    def close(self) -> None:
        self._announcer.close()
        super().close()

    # --- links ---

    def _elements(self, name: str, link: Link) -> list[Element]:
        return gate.elements(name, link)

    def _join(self, host: Netlink, container: str, name: str, link: Link, inside: int) -> None:
        bearer = self._uplink(host)
        if bearer is not None and bearer.name != self._served:
            self.setup()  # it has become a bridge's port, or is one no more
        mtu = min(link.mtu, _DEFAULT_MTU if bearer is None else bearer.mtu)
        router = _router_mac(link.mac)
        host.add_veth(name, link.name, mtu=mtu, mac=router, peer_netns=inside, peer_mac=link.mac)
        index = self._shape_new(host, container, name, link)
        forward_from(name)
        host.ask_nobody(index)
        host.set_link(index, alias=self._names.alias(container), up=True, own_ipv6=False)
        interior.configure_routed(inside, link, router)
        for address in _addresses(link):
            host.set_neighbour(index, address, link.mac)

    def _lead(self, host: Netlink, name: str, link: Link) -> None:
        """Only now: until then the address may be another server's, for this server's containers too."""
        index = host.index(name)
        for address in _addresses(link):
            host.set_host_route(index, address)
        self._answer(host, link)

    def _lead_to(self, host: Netlink, tap: Tap, container: str, link: Link) -> None:
        bearer = self._seen(host)
        mtu = min(link.mtu, _DEFAULT_MTU if bearer is None else bearer.mtu)
        index = host.index(tap.name)
        host.set_link(index, mtu=mtu, alias=self._names.alias(container), queue=waiting.depth(mtu), up=True, own_ipv6=False)
        for address in _addresses(link):
            host.set_host_route(index, address)

    def _lead_away(self, host: Netlink, link: Link) -> None:
        for address in _addresses(link):
            host.delete_host_route(address)

    def _put_back(self, tap: Tap, link: Link, packets: Iterable[bytes]) -> None:
        waiting.put_packets(link, packets)

    def _answer(self, host: Netlink, link: Link) -> None:
        bearer = self._seen(host)
        if bearer is not None and self.settings.proxy:
            for address in _addresses(link):
                host.add_proxy(bearer.index, address)

    def _part(self, host: Netlink, found: list[Element]) -> None:
        bearer = uplink.bearer(host, self.settings.uplink)
        if bearer is not None:
            for element in found:
                if element.set in gate.OWN:
                    host.delete_proxy(bearer.index, ipaddress.ip_address(element.key))

    def _announce(self, link: Link) -> None:
        """The addresses are at the server's own MAC."""
        if self.settings.uplink and self.settings.proxy:
            with netlink.opened() as host:
                bearer = self._seen(host)
            if bearer is not None:
                self._announcer.announce(link.model_copy(update={"mac": bearer.mac}), bearer.name)

    def _uplink(self, host: Netlink) -> LinkState | None:
        """The interface that this server is reached by; None where there is to be none."""
        if not self.settings.uplink:
            return None
        found = uplink.bearer(host, self.settings.uplink)
        if found is None:
            raise _no_uplink(self.settings.uplink)
        self._last_seen = found
        return found

    def _seen(self, host: Netlink) -> LinkState | None:
        """The same, as it was when this driver last looked at it."""
        seen = self._last_seen
        return seen if seen is not None and netlink.index(seen.name) == seen.index else self._uplink(host)


def _no_uplink(name: str) -> HostFailure:
    return HostFailure(f"this server has no interface {name}", hint="set the driver's uplink to one that `ip link` shows", code="no_uplink")


def _router_mac(mac: str) -> str:
    """Of a link's outer end: locally administered, and never the container's own."""
    return f"{int(mac[:2], 16) & 0xFC ^ 0x06:02x}{mac[2:]}"


def _addresses(link: Link) -> list[Address]:
    return [ipaddress.ip_interface(address).ip for address in link.addresses]
