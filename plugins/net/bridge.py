"""Driver ``bridge``: each link a veth pair, its outer end a port of one bridge on the server.

The worker runs in the server's network namespace, and the bridge, the links and the rules are there. What a link may
send is in :mod:`.guard`, its rates in :mod:`.rates`, its inner end in :mod:`.interior`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable

from pydantic import Field

from hostler.contracts.driver import Host, Item, Lack, Probe, Settings
from hostler.contracts.net import LinkCounters, Net, NetCapabilities
from hostler.core.errors import HostFailure, NotFound
from hostler.core.specs import Link
from hostler.host import netlink, netns, nftables
from hostler.host.netlink import LinkState, Netlink
from hostler_plugins.net import guard, interior, rates, trial, uplink
from hostler_plugins.net.announce import Announcer
from hostler_plugins.net.names import Names, shaper
from hostler_plugins.net.records import Record, Records

_DEFAULT_MTU = 1500
#: Seconds that the kernel may take to let packets through a new port; it takes under one ms.
_PATIENCE = 2.0


class BridgeSettings(Settings):
    """Of driver ``bridge``."""

    bridge: str = Field(default="", max_length=netlink.NAME_LIMIT, description="name of the bridge; empty: made from the installation's")
    uplink: str = Field(
        default="", max_length=netlink.NAME_LIMIT, description="the server's interface to its network; empty: containers meet on this server only"
    )
    mtu: int | None = Field(default=None, ge=1280, le=9216, description="of the bridge and its links; default the uplink's")


class Bridge(Net):
    """See the module."""

    name = "bridge"
    settings_model = BridgeSettings
    settings: BridgeSettings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._lock = threading.Lock()
        self._rules: nftables.Nftables | None = None  # opened when first used, and kept
        self._last_seen: LinkState | None = None

    @functools.cached_property
    def _names(self) -> Names:
        return Names.of(self.host)

    @functools.cached_property
    def _records(self) -> Records:
        return Records(self.folder / "links")

    @functools.cached_property
    def _announcer(self) -> Announcer:
        return Announcer(self.settings.uplink)

    @property
    def _nft(self) -> nftables.Nftables:
        with self._lock:
            if self._rules is None:
                self._rules = nftables.Nftables()
            return self._rules

    @functools.cached_property
    def _trial(self) -> trial.Outcome:
        return trial.hold()

    @property
    def _bridge(self) -> str:
        return self.settings.bridge or self._names.bridge

    # --- the host ---

    @property
    def capabilities(self) -> NetCapabilities:
        lacks = self._trial
        guarded = lacks.rules is None
        return NetCapabilities(rate_in=lacks.rate_in is None, rate_out=lacks.rate_out is None, anti_spoofing=guarded, isolation=guarded, shared_l2=True)

    def probe(self) -> Probe:
        lacks = [Lack(what=what, remedy=remedy, blocks=blocks) for what, remedy, blocks in self._trial.lacks()]
        if self.settings.uplink and not netlink.names(self.settings.uplink):
            lacks.append(Lack(what=f"no interface {self.settings.uplink}", remedy="set the driver's uplink to one that `ip link` shows", blocks=True))
        return Probe(offers=self._trial.offers(), lacks=lacks)

    def setup(self) -> None:
        self._nft.run(guard.base(self._names.table, self._names.links))
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
        self._nft.run(guard.remove(self._names.table))
        self.close()

    def close(self) -> None:
        """Let go of the sockets into this server's namespace; the next verb opens them again."""
        self._announcer.close()
        with self._lock:
            if self._rules is not None:
                self._rules.close()
                self._rules = None

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

    def attach(self, container: str, link: Link, pid: int) -> None:
        if link.firewall and not self.capabilities.firewall:
            raise self._refuse("hold a tenant's firewall")
        if link.network is not None and not self.capabilities.tenant_networks:
            raise self._refuse("make a network of the tenant's own")
        name = self._names.link(container, link.name)
        with netns.opened(netns.of_process(pid)) as inside:
            if self._records.read(name) is not None or netlink.names(name):
                self._remove(container, [name])
            try:
                self._make(container, name, link, inside)
            except BaseException:
                self._remove(container, [name])
                raise

    def _make(self, container: str, name: str, link: Link, inside: int) -> None:
        """Rules before the link, rates before it is up: there is no moment in which a packet passes unguarded."""
        alias = self._names.alias(container)
        self._records.write(name, Record(container=container, link=link))
        self._nft.run(guard.admit(self._names.table, container, guard.elements(name, link)))
        with netlink.opened() as host:
            bridge = self._found(host)
            mtu = min(link.mtu, bridge.mtu)
            host.add_veth(name, link.name, mtu=mtu, peer_netns=inside, peer_mac=link.mac, master=bridge.index)
            index = host.index(name)
            if link.rate_in is not None:
                rates.set_in(host, index, link.rate_in)
            if link.rate_out is not None:
                rates.set_out(host, name, index, link.rate_out, alias)
            host.close_port(index, link.mac)
            host.set_link(index, alias=alias, up=True, own_ipv6=False)
            interior.configure(inside, link)
            _wait_until_operational(host, name)
        if self.settings.uplink:
            self._announcer.announce(link)

    def detach(self, container: str) -> None:
        prefix = self._names.links_of(container)
        found = {*netlink.names(prefix), *self._records.names(prefix)}
        found |= {prefix + name.removeprefix(shaper(prefix)) for name in netlink.names(shaper(prefix))}
        self._remove(container, sorted(found))

    def _remove(self, container: str, links: list[str]) -> None:
        """Remove links, then their rules, then the records of both."""
        with netlink.opened() as host:
            host.delete_links([name for link in links for name in (link, shaper(link))])
        records = {link: self._records.read(link) for link in links}
        known = [element for link, record in records.items() if record for element in guard.elements(link, record.link)]
        if not records or None in records.values() or not self._withdrawn(known):
            self._sweep(container, links)
        for link in links:
            self._records.remove(link)

    def _withdrawn(self, elements: Iterable[guard.Element]) -> bool:
        """Whether the elements are gone now. False when one of them was not there, and then none was touched."""
        try:
            self._nft.run(guard.withdraw(self._names.table, elements))
        except HostFailure as error:
            if nftables.absent(error):
                return False
            raise
        return True

    def _sweep(self, container: str, links: Iterable[str]) -> None:
        """Remove the container's elements as the kernel tells them; for when there is no record that fits."""
        table = self._names.table
        if not any(owner == container for _, owner in guard.held(self._nft.listing(f"list set bridge {table} {guard.REGISTER}"))):
            return
        chosen = set(links)
        held = guard.held(self._nft.listing(f"list table bridge {table}"))
        found = [element for element, owner in held if owner == container and (not chosen or element.link in chosen)]
        if found:
            self._nft.run(guard.withdraw(table, found))

    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        alias = self._names.alias(container)
        with netlink.opened() as host:
            for link in self._links(host, container):
                rates.set_in(host, link.index, rate_in)
                rates.set_out(host, link.name, link.index, rate_out, alias)

    def counters(self, container: str) -> LinkCounters:
        with netlink.opened() as host:
            links = self._links(host, container)
        return LinkCounters(
            in_bytes=sum(link.tx_bytes for link in links),
            out_bytes=sum(link.rx_bytes for link in links),
            in_packets=sum(link.tx_packets for link in links),
            out_packets=sum(link.rx_packets for link in links),
        )

    def _links(self, host: Netlink, container: str) -> list[LinkState]:
        found = [host.link(name) for name in netlink.names(self._names.links_of(container))]
        links = [link for link in found if link is not None]
        if not links:
            raise NotFound(f"container {container} has no link here", hint="it is stopped, or on another server", code="no_link")
        return links

    # --- what is here ---

    def inventory(self) -> list[Item]:
        """Links, shapers, rules and records. The bridge and the table are the host's, as :meth:`setup` made them."""
        names = self._names
        items = []
        if netlink.names(names.links) or netlink.names(names.shapers):
            with netlink.opened() as host:
                for link in host.links():
                    if link.name.startswith((names.links, names.shapers)):
                        items.append(Item(kind="link", name=link.name, owner=names.owner(link.alias) or self._recorded(link.name)))
        for name, owner in sorted(self._held().items()):
            items.append(Item(kind="rules", name=name, owner=owner))
        items += [Item(kind="record", name=name, owner=self._recorded(name)) for name in self._records.names(names.links)]
        return items

    def _recorded(self, name: str) -> str | None:
        record = self._records.read("v" + name[1:])
        return None if record is None else record.container

    def _held(self) -> dict[str, str | None]:
        return {element.link: owner for element, owner in guard.held(self._nft.listing(f"list table bridge {self._names.table}"))}



def _gone(bridge: str) -> HostFailure:
    return HostFailure(f"bridge {bridge} is gone", hint="restart this server's worker: it makes the bridge", code="no_bridge")


def _wait_until_operational(host: Netlink, name: str) -> None:
    """Both ends are up, and the bridge forwards through the link."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        link = host.link(name)
        if link is not None and link.operational:
            return
        if time.monotonic() > deadline:
            raise HostFailure(f"link {name} did not come up within {_PATIENCE:g} s", hint="its other end may have been removed; try again")
        time.sleep(0.001)
