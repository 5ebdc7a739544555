"""Driver ``macvlan``: each link a child of the server's uplink (``macvlan``, mode bridge), moved into the container.

Frames go from the container to the network without a bridge in between, and from one container of a server to another without
leaving the kernel. Rules, rates and counters are therefore inside the container's network namespace, on the link itself, where a container
without CAP_NET_ADMIN and CAP_NET_RAW cannot change or bypass them. The server itself and its containers cannot reach each other: what the
uplink sends its children do not see. See :mod:`.wall` for what a link may send.
"""

from __future__ import annotations

import functools
import ipaddress
import os

from pydantic import Field

from hostler.contracts.driver import Host, Item, Lack, Probe, Settings
from hostler.contracts.net import LinkCounters, Net, NetCapabilities
from hostler.core.errors import HostFailure, NotFound
from hostler.core.names import check_id
from hostler.core.specs import FirewallRule, Link
from hostler.host import netlink, netns, nftables
from hostler.host.netlink import LinkState, Netlink
from hostler_plugins.net import elements, filters, interior, rates, trial, uplink, wall
from hostler_plugins.net.announce import Announcer
from hostler_plugins.net.elements import Place
from hostler_plugins.net.names import Names, shaper
from hostler_plugins.net.records import Record, Records

_LACK = Lack(
    what="a server and its own containers cannot reach each other, by macvlan's nature",
    remedy="use driver bridge or routed for containers that must talk to services of their own server",
)


class MacvlanSettings(Settings):
    """Of driver ``macvlan``."""

    uplink: str = Field(default="", max_length=netlink.NAME_LIMIT, description="the server's interface to its network, whose children the links are")


class Macvlan(Net):
    """See the module."""

    name = "macvlan"
    settings_model = MacvlanSettings
    settings: MacvlanSettings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._announcer = Announcer("")

    @functools.cached_property
    def _names(self) -> Names:
        return Names.of(self.host, self.name)

    @functools.cached_property
    def _records(self) -> Records:
        return Records(self.folder / "links")

    @functools.cached_property
    def _trial(self) -> trial.Outcome:
        return trial.of_macvlans()

    # --- the host ---

    @property
    def capabilities(self) -> NetCapabilities:
        lacks = self._trial
        guarded = lacks.rules is None
        return NetCapabilities(
            rate_in=lacks.rate_out is None,  # what the container receives arrives on the link
            rate_out=lacks.rate_in is None,
            anti_spoofing=guarded,
            isolation=guarded,
            firewall=lacks.firewall is None,
            hold=guarded,
            shared_l2=True,
        )

    def probe(self) -> Probe:
        lacks = [_LACK, *(Lack(what=what, remedy=remedy, blocks=blocks) for what, remedy, blocks in self._trial.lacks())]
        if not netlink.names(self.settings.uplink or "?"):
            lacks.append(
                Lack(what=f"no interface {self.settings.uplink or '(none)'}", remedy="set the driver's uplink to one that `ip link` shows", blocks=True)
            )
        return Probe(offers=self._trial.offers(), lacks=lacks)

    def setup(self) -> None:
        """Nothing is shared but the uplink, which must be there."""
        with netlink.opened() as host:
            self._parent(host)

    def teardown(self) -> None:
        """The uplink stays as it is."""
        self.close()

    def close(self) -> None:
        """Let go of the socket into this server's namespace."""
        self._announcer.close()

    def _parent(self, host: Netlink) -> LinkState:
        found = uplink.bearer(host, self.settings.uplink)
        if found is None:
            raise HostFailure(
                f"this server has no interface {self.settings.uplink or '(none)'}",
                hint="set the driver's uplink to one that `ip link` shows",
                code="no_uplink",
            )
        return found

    # --- links ---

    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        can = self.capabilities
        if held and not can.hold:
            raise self._refuse("hold a link")
        if link.firewall and not can.firewall:
            raise self._refuse("hold a tenant's firewall")
        if link.network is not None:
            raise self._refuse("make a network of the tenant's own")
        name = self._names.link(container, link.name)
        with netns.opened(netns.of_process(pid)) as inside:
            held = held or self._is_held(container)
            self._remove([name])
            record = Record(container=container, link=link, pid=pid, namespace=os.fstat(inside).st_ino)
            try:
                self._records.write(name, record)
                parent = self._make(record, inside, held)
            except BaseException:
                self._remove([name])
                raise
        if not held:
            self._announcer.announce(link, parent)

    def _make(self, record: Record, inside: int, held: bool) -> str:
        """Make the link, and return its parent's name. Rules and rates before it is up. Held, it has another MAC: what is for the container's own gets to where that is in use."""
        link = record.link
        with netlink.opened() as host:
            parent = self._parent(host)
            host.add_macvlan(link.name, parent.index, mtu=min(link.mtu, parent.mtu), mac=_waiting_mac(link.mac) if held else link.mac, netns=inside)
        with netns.entered(inside):
            commands = [wall.base(_place(link), link)]
            if link.firewall:
                commands.append(filters.install(_place(link), record.container, link.name, link.firewall, frozenset()))
            if held:
                commands.append(elements.silence(_place(link), record.container, [link.name]))
            with nftables.opened() as rules:
                if rules.listing(f"list table {_place(link)}"):  # of a link whose record was lost
                    rules.run(elements.remove(_place(link)))
                rules.run("\n".join(commands))
            with netlink.opened() as there:
                index = there.index(link.name)
                there.set_link(index, alias=self._names.alias(record.container), own_ipv6=False)
                there.add_address(index, ipaddress.ip_interface(f"{elements.link_local(link.mac)}/64"))
                if link.rate_out is not None:
                    rates.set_in(there, index, link.rate_out)
                if link.rate_in is not None:
                    rates.set_out(there, link.name, index, link.rate_in, self._names.alias(record.container))
        interior.configure(inside, link)
        return parent.name

    def _shape(self, there: Netlink, record: Record, rate_in: int | None, rate_out: int | None) -> None:
        name = record.link.name
        index = there.index(name)
        rates.set_in(there, index, rate_out)  # what the link sends is what the container does
        rates.set_out(there, name, index, rate_in, self._names.alias(record.container))

    def detach(self, container: str) -> None:
        self._remove(self._records.names(self._names.links_of(container)))

    def _remove(self, names: list[str]) -> None:
        for name in names:
            record = self._records.read(name)
            if record is not None:
                with interior.entered(record) as there:
                    if there is not None:
                        with nftables.opened() as rules:
                            rules.run(elements.remove(_place(record.link)))
                        if record.link.name in netlink.names(record.link.name):
                            there.delete_links([record.link.name, shaper(record.link.name)])
                        else:
                            there.delete_link(shaper(record.link.name))
            self._records.remove(name)

    def _known(self, container: str) -> list[tuple[str, Record]]:
        names = self._records.names(self._names.links_of(check_id(container)))
        records = [(name, record) for name in names if (record := self._records.read(name)) is not None]
        found = [(name, record) for name, record in records if self._there(record)]
        if not found:
            raise NotFound(f"container {container} has no link here", hint="it is stopped, or on another server", code="no_link")
        return found

    def _there(self, record: Record) -> bool:
        with interior.entered(record) as there:
            return there is not None and netlink.index(record.link.name) is not None

    # --- live ---

    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        rates.check(rate_in, rate_out)
        for name, record in self._known(container):
            with interior.entered(record) as there:
                if there is not None:
                    self._shape(there, record, rate_in, rate_out)
            self._note(name, record, {"rate_in": rate_in, "rate_out": rate_out})

    def _note(self, name: str, record: Record, changed: dict[str, object]) -> None:
        self._records.write(name, record.model_copy(update={"link": record.link.model_copy(update=changed)}))

    def counters(self, container: str) -> LinkCounters:
        total = LinkCounters()
        for _, record in self._known(container):
            with interior.entered(record) as there:
                state = None if there is None else there.link(record.link.name)
            if state is not None:
                total.in_bytes += state.rx_bytes
                total.out_bytes += state.tx_bytes
                total.in_packets += state.rx_packets
                total.out_packets += state.tx_packets
        return total

    def set_firewall(self, container: str, rules: tuple[FirewallRule, ...]) -> None:
        if not self.capabilities.firewall:
            raise self._refuse("hold a tenant's firewall")
        for name, record in self._known(container):
            self._run(record, filters.install(_place(record.link), container, record.link.name, rules, frozenset()))
            self._note(name, record, {"firewall": rules})

    def hold(self, container: str) -> None:
        if not self.capabilities.hold:
            raise self._refuse("hold a link")
        for _, record in self._known(container):
            self._run(record, elements.silence(_place(record.link), container, [record.link.name]))
            with interior.entered(record) as there:
                if there is not None and record.link.rate_out is not None:
                    rates.empty(there, there.index(record.link.name), record.link.rate_out)

    def release(self, container: str) -> None:
        if not self.capabilities.hold:
            raise self._refuse("hold a link")
        for _, record in self._known(container):
            with interior.entered(record) as there:
                if there is not None:
                    there.set_link(there.index(record.link.name), mac=record.link.mac)
            self._run(record, elements.unsilence(_place(record.link), [record.link.name]))
            interior.ask_again(record)
            self._announce(record.link)

    def _run(self, record: Record, commands: str) -> None:
        with interior.entered(record) as there:
            if there is not None:
                with nftables.opened() as rules:
                    rules.run(commands)

    def _announce(self, link: Link) -> None:
        """Out of the uplink, which needs no permission of the link's own rules."""
        with netlink.opened() as host:
            parent = self._parent(host)
        self._announcer.announce(link, parent.name)

    def _is_held(self, container: str) -> bool:
        records = [self._records.read(name) for name in self._records.names(self._names.links_of(container))]
        return any(item.kind == "hold" for record in records if record is not None for item in self._items("", record))

    # --- what is here ---

    def inventory(self) -> list[Item]:
        """Links, shapers, rules, holds, as their records lead to them; what is in a namespace that has ended is gone with it."""
        items = []
        for name in self._records.names(self._names.links):
            record = self._records.read(name)
            items.append(Item(kind="record", name=name, owner=None if record is None else record.container))
            items += [] if record is None else self._items(name, record)
        return items

    def _items(self, name: str, record: Record) -> list[Item]:
        with interior.entered(record) as there:
            if there is None:
                return []
            kinds = ["link" for interface in (record.link.name, shaper(record.link.name)) if netlink.index(interface) is not None]
            with nftables.opened() as rules:
                listing = rules.listing(f"list table {_place(record.link)}")
        kinds += ["rules"] * bool(listing) + ["firewall"] * len(filters.installed(listing)) + ["hold"] * len(elements.silenced(listing))
        return [Item(kind=kind, name=name, owner=record.container) for kind in kinds]




def _place(link: Link) -> Place:
    return Place("netdev", f"hostler_{link.name}")


def _waiting_mac(mac: str) -> str:
    """Of a link that is held from its beginning: locally administered, and never the container's own."""
    return f"{int(mac[:2], 16) & 0xFC ^ 0x06:02x}{mac[2:]}"
