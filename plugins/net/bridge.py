"""Driver ``bridge``: each link a veth pair, its outer end a port of one bridge on the server.

What a link may send is in :mod:`.guard`; what all such drivers do in :mod:`.veths`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from pydantic import Field

from hostler.contracts.driver import Host, Lack, Probe, Settings
from hostler.contracts.net import NetCapabilities
from hostler.core.errors import HostFailure
from hostler.core.specs import Link
from hostler.host import netlink
from hostler.host.netlink import LinkState, Netlink
from hostler.host.tap import Tap
from hostler_plugins.net import elements, guard, interior, trial, uplink, waiting
from hostler_plugins.net.announce import Announcer
from hostler_plugins.net.elements import Element
from hostler_plugins.net.filters import Direction
from hostler_plugins.net.veths import Veths, wait_until_operational

_DEFAULT_MTU = 1500


class BridgeSettings(Settings):
    """Of driver ``bridge``."""

    bridge: str = Field(default="", max_length=netlink.NAME_LIMIT, description="name of the bridge; empty: made from the installation's")
    uplink: str = Field(
        default="", max_length=netlink.NAME_LIMIT, description="the server's interface to its network; empty: containers meet on this server only"
    )
    mtu: int | None = Field(default=None, ge=1280, le=9216, description="of the bridge and its links; default the uplink's")


class Bridge(Veths):
    """See the module."""

    name = "bridge"
    settings_model = BridgeSettings
    settings: BridgeSettings

    family = "bridge"
    sets = guard.SETS
    register = guard.REGISTER

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._last_seen: LinkState | None = None

    @functools.cached_property
    def _announcer(self) -> Announcer:
        return Announcer(self.settings.uplink)

    @functools.cached_property
    def _trial(self) -> trial.Outcome:
        return trial.of_bridges()

    @property
    def _refusing(self) -> frozenset[Direction]:
        return self._trial.refusing

    @property
    def _bridge(self) -> str:
        return self.settings.bridge or self._names.bridge

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
            shared_l2=True,
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
        self._nft.run(guard.base(self._place, self._names.links))
        with netlink.opened() as host:
            mtu = self._wanted_mtu(host)
            if netlink.index(self._bridge) is None:
                host.add_bridge(self._bridge, mtu=mtu)
            bridge = host.link(self._bridge)
            if bridge is None:
                raise _gone(self._bridge)
            host.set_link(bridge.index, mtu=mtu, up=True)  # set, it stays; or the least of the ports' would be taken
            self._last_seen = None
            if self.settings.uplink:
                uplink.join(host, self.settings.uplink, bridge)

    def _wanted_mtu(self, host: Netlink) -> int:
        if self.settings.mtu is not None:
            return self.settings.mtu
        port = host.link(self.settings.uplink) if self.settings.uplink else None
        return _DEFAULT_MTU if port is None else port.mtu

    def teardown(self) -> None:
        with netlink.opened() as host:
            bridge = host.link(self._bridge)
            if bridge is not None:
                if self.settings.uplink:
                    uplink.leave(host, self.settings.uplink, bridge)
                host.delete_link(self._bridge)
        self._nft.run(elements.remove(self._place))
        self.close()

    def close(self) -> None:
        self._announcer.close()
        super().close()

    def _found(self, host: Netlink) -> LinkState:
        """The bridge, and its MTU as it was when this driver first saw it."""
        seen = self._last_seen
        if seen is not None and netlink.index(self._bridge) == seen.index:
            return seen
        bridge = self._last_seen = host.link(self._bridge)
        if bridge is None:
            raise _gone(self._bridge)
        return bridge

    # --- links ---

    def _elements(self, name: str, link: Link) -> list[Element]:
        return guard.elements(name, link)

    def _join(self, host: Netlink, container: str, name: str, link: Link, inside: int) -> None:
        bridge = self._found(host)
        mtu = min(link.mtu, bridge.mtu)
        host.add_veth(name, link.name, mtu=mtu, peer_netns=inside, peer_mac=link.mac, master=bridge.index)
        index = self._shape_new(host, container, name, link)
        host.close_port(index)
        host.set_link(index, alias=self._names.alias(container), up=True, own_ipv6=False)
        interior.configure(inside, link)
        wait_until_operational(host, name)

    def _lead(self, host: Netlink, name: str, link: Link) -> None:
        host.place_mac(host.index(name), link.mac)

    def _lead_to(self, host: Netlink, tap: Tap, container: str, link: Link) -> None:
        waiting.join(host, tap, link, self._found(host), self._names.alias(container))

    def _put_back(self, tap: Tap, link: Link, packets: Iterable[bytes]) -> None:
        waiting.put_frames(tap, link, packets)

    def _announce(self, link: Link) -> None:
        if self.settings.uplink:
            self._announcer.announce(link)


def _gone(bridge: str) -> HostFailure:
    return HostFailure(f"bridge {bridge} is gone", hint="restart this server's worker: it makes the bridge", code="no_bridge")
