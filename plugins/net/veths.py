"""What drivers whose links are veth pairs have in common: all but how a pair is joined to the provider's network.

The worker runs in the server's network namespace, where the outer ends and the rules are. Rates are in :mod:`.rates`, the
tenant's firewall in :mod:`.filters`, the inner end in :mod:`.interior`. What a link may send is the derived driver's.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import structlog

from hostler.contracts.driver import Host, Item
from hostler.contracts.net import LinkCounters, Net
from hostler.core.errors import Conflict, HostFailure, NotFound
from hostler.core.specs import FirewallRule, Link
from hostler.host import netlink, netns, nftables
from hostler.host.netlink import LinkState, Netlink
from hostler.host.tap import Tap
from hostler_plugins.net import elements, filters, interior, rates
from hostler_plugins.net.elements import Element, Place
from hostler_plugins.net.filters import Direction
from hostler_plugins.net.names import Names, room, shaper
from hostler_plugins.net.records import Record, Records
from hostler_plugins.net.waiting import Room, Rooms

log = structlog.get_logger()

#: Seconds that the kernel may take to let packets through a new port; it takes under one ms.
_PATIENCE = 2.0


class Veths(Net):
    """See the module. A derived class names its rules, and makes and unmakes one link."""

    #: Family of its table, its sets of elements, and the one in which every link has an element.
    family: ClassVar[str]
    sets: ClassVar[frozenset[str]]
    register: ClassVar[str]
    #: What makes its names differ from other drivers'.
    surname: ClassVar[str] = ""
    #: Whether what waits for a link is frames; else it is IP packets.
    frames: ClassVar[bool] = True

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._lock = threading.Lock()
        self._rules: nftables.Nftables | None = None  # opened when first used, and kept
        self._rooms = Rooms()
        self._expecting = threading.Lock()  # who ends an expectation does it alone

    @functools.cached_property
    def _names(self) -> Names:
        return Names.of(self.host, self.surname)

    @functools.cached_property
    def _place(self) -> Place:
        return Place(self.family, self._names.table)

    @functools.cached_property
    def _records(self) -> Records:
        return Records(self.folder / "links")

    @functools.cached_property
    def _expected(self) -> Records:
        """Links of containers that are on their way here."""
        return Records(self.folder / "expected")

    @property
    def _nft(self) -> nftables.Nftables:
        with self._lock:
            if self._rules is None:
                self._rules = nftables.Nftables()
            return self._rules

    def close(self) -> None:
        """Let go of the sockets into this server's namespace, and of what waits in it; the next verb opens them again."""
        self._rooms.close()
        with self._lock:
            if self._rules is not None:
                self._rules.close()
                self._rules = None

    # --- what a derived driver knows ---

    @abstractmethod
    def _elements(self, name: str, link: Link) -> list[Element]:
        """What the rules must know of a link."""

    @abstractmethod
    def _join(self, host: Netlink, container: str, name: str, link: Link, inside: int) -> None:
        """Make the link, whose rules are there, in the namespace of descriptor ``inside``, and set it up. Nothing is led to it yet."""

    @abstractmethod
    def _lead(self, host: Netlink, name: str, link: Link) -> None:
        """Send what is for the link's addresses, and gets to this server, to the link. Idempotent."""

    @abstractmethod
    def _announce(self, link: Link) -> None:
        """Tell the network where the link's addresses are now."""

    @abstractmethod
    def _lead_to(self, host: Netlink, tap: Tap, container: str, link: Link) -> None:
        """Send what is for the link's addresses, and gets to this server, to a new room."""

    @abstractmethod
    def _put_back(self, tap: Tap, link: Link, packets: Iterable[bytes]) -> None:
        """Let what waited go on its way to the link, to which :meth:`_lead` leads now."""

    def _answer(self, host: Netlink, link: Link) -> None:
        """Where this server answers for containers: do so for a link that is not here yet. Idempotent."""

    def _lead_away(self, host: Netlink, link: Link) -> None:
        """What is for the link's addresses goes where the network says they are. Idempotent; :meth:`_lead` undoes it."""

    def _part(self, host: Netlink, found: list[Element]) -> None:
        """Undo of :meth:`_join` what does not go with the interface itself, for links whose elements these are. Idempotent."""

    @property
    @abstractmethod
    def _refusing(self) -> frozenset[Direction]:
        """Directions in which the kernel can answer what a tenant's rule rejects."""

    # --- links ---

    def attach(self, container: str, link: Link, pid: int, held: bool = False) -> None:
        if held and not self.capabilities.hold:
            raise self._refuse("hold a link")
        self._check(link)
        name = self._names.link(container, link.name)
        prefix = self._names.links_of(container)
        with netns.opened(netns.of_process(pid)) as inside:
            held = held or (bool(netlink.names(prefix)) and any(one.startswith(prefix) for one in self._silenced()))
            if self._records.read(name) is not None or netlink.names(name):
                self._remove(container, [name])
            record = Record(container=container, link=link, pid=pid, namespace=os.fstat(inside).st_ino)
            try:
                self._make(name, record, inside, held)
            except BaseException:
                self._remove(container, [name])
                raise

    def _check(self, link: Link) -> None:
        """Raises :class:`Unsupported`."""
        if link.firewall and not self.capabilities.firewall:
            raise self._refuse("hold a tenant's firewall")
        if link.network is not None and not self.capabilities.tenant_networks:
            raise self._refuse("make a network of the tenant's own")

    def _make(self, name: str, record: Record, inside: int, held: bool) -> None:
        """Rules before the link, rates before it is up: there is no moment in which a packet passes unguarded."""
        container, link = record.container, record.link
        self._records.write(name, record)
        commands = [elements.admit(self._place, container, self._elements(name, link))]
        if held:
            commands.append(elements.silence(self._place, container, [name]))
        if link.firewall:
            commands.append(filters.install(self._place, container, name, link.firewall, self._refusing))
        self._nft.run("\n".join(commands))
        with netlink.opened() as host:
            self._join(host, container, name, link, inside)
            if not held:
                self._lead(host, name, link)
        if not held:
            self._announce(link)

    def _shape_new(self, host: Netlink, container: str, name: str, link: Link) -> int:
        """Give a new outer end its rates and its owner, still down. Returns its index."""
        index, alias = host.index(name), self._names.alias(container)
        if link.rate_in is not None:
            rates.set_in(host, index, link.rate_in)
        if link.rate_out is not None:
            rates.set_out(host, name, index, link.rate_out, alias)
        return index

    def detach(self, container: str) -> None:
        prefix = self._names.links_of(container)
        found = {*netlink.names(prefix), *self._records.names(prefix)}
        for beside in (shaper, room):
            found |= {prefix + name.removeprefix(beside(prefix)) for name in netlink.names(beside(prefix))}
        expected = self._expected.names(prefix)
        self._remove(container, sorted(found | set(expected)), [room(name) for name in found])
        for name in {*expected, *self._rooms.names(prefix)}:
            self._forget(name)
        self._rooms.settle()

    def _remove(self, container: str, links: list[str], more: Iterable[str] = ()) -> None:
        """Remove links and what more interfaces there are of them, then their rules, then the records of both."""
        records = {link: self._records.read(link) for link in links}
        known = [element for link, record in records.items() if record for element in self._elements(link, record.link)]
        with netlink.opened() as host:
            self._part(host, known)
            host.delete_links([name for link in links for name in (link, shaper(link))] + list(more))
        for link, record in records.items():
            if record is None or record.link.firewall:
                self._run_where_present(filters.uninstall(self._place, link))
        self._run_where_present(elements.unsilence(self._place, links))
        if not records or None in records.values() or not self._run_where_present(elements.withdraw(self._place, known)):
            self._sweep(container, links)
        for link in links:
            self._records.remove(link)

    def _run_where_present(self, commands: str) -> bool:
        """Whether the commands were carried out. False when something they name was not there, and then nothing changed."""
        try:
            self._nft.run(commands)
        except HostFailure as error:
            if nftables.absent(error):
                return False
            raise
        return True

    def _sweep(self, container: str, links: Iterable[str]) -> None:
        """Remove the container's elements as the kernel tells them; for when there is no record that fits."""
        if container not in self._admitted(f"list set {self._place} {self.register}").values():
            return
        chosen = set(links)
        held = elements.held(self._nft.listing(f"list table {self._place}"), self.sets)
        found = [element for element, owner in held if owner == container and (not chosen or element.link in chosen)]
        if found:
            with netlink.opened() as host:
                self._part(host, found)
            self._nft.run(elements.withdraw(self._place, found))

    def _admitted(self, command: str) -> dict[str, str | None]:
        return {element.link: owner for element, owner in elements.held(self._nft.listing(command), self.sets)}

    def shape(self, container: str, rate_in: int | None, rate_out: int | None) -> None:
        rates.check(rate_in, rate_out)
        alias = self._names.alias(container)
        with netlink.opened() as host:
            for link in self._links(host, container):
                rates.set_in(host, link.index, rate_in)
                rates.set_out(host, link.name, link.index, rate_out, alias)
                self._note(link.name, {"rate_in": rate_in, "rate_out": rate_out})

    def _note(self, name: str, changed: dict[str, object]) -> None:
        record = self._records.read(name)
        if record is not None:
            self._records.write(name, record.model_copy(update={"link": record.link.model_copy(update=changed)}))

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
        found = [host.link(name) for name in self._present(container)]
        return [link for link in found if link is not None]

    def _present(self, container: str) -> list[str]:
        """The links that a container has here. Raises :class:`NotFound`."""
        found = netlink.names(self._names.links_of(container))
        if not found:
            raise NotFound(f"container {container} has no link here", hint="it is stopped, or on another server", code="no_link")
        return found

    # --- the tenant's rules, and silence ---

    def set_firewall(self, container: str, rules: tuple[FirewallRule, ...]) -> None:
        if not self.capabilities.firewall:
            raise self._refuse("hold a tenant's firewall")
        names = self._present(container)
        if rules:  # a record may tell of rules that are not there, never the other way round
            for name in names:
                self._note(name, {"firewall": rules})
        self._nft.run("\n".join(filters.install(self._place, container, name, rules, self._refusing) for name in names))
        for name in names:
            self._note(name, {"firewall": rules})

    def hold(self, container: str) -> None:
        if not self.capabilities.hold:
            raise self._refuse("hold a link")
        with netlink.opened() as host:
            names = self._present(container)
            records = {name: record for name in names if (record := self._records.read(name)) is not None}
            if self.capabilities.expect:
                for name, record in records.items():
                    self._keep(host, container, name, record.link)
            self._nft.run(elements.silence(self._place, container, names))
            self._part(host, [element for name, record in records.items() for element in self._elements(name, record.link)])
            for name, record in records.items():
                if record.link.rate_in is not None:
                    rates.empty(host, host.index(name), record.link.rate_in)

    def _keep(self, host: Netlink, container: str, name: str, link: Link) -> None:
        """What comes for a link that is about to be held waits, if it can."""
        try:
            self._open_room(host, container, name, link)
        except HostFailure as error:
            log.warning("what comes for a held link is lost", link=name, error=error.message)

    def release(self, container: str) -> None:
        """First the link is opened, to which nothing leads yet; then the way is switched; then what waited goes it too."""
        if not self.capabilities.hold:
            raise self._refuse("hold a link")
        with netlink.opened() as host:
            names = self._present(container)
            records = {name: record for name in names if (record := self._records.read(name)) is not None}
            rooms = self._taken(names)
            try:
                self._nft.run(elements.unsilence(self._place, names))
                for name, record in records.items():
                    self._lead(host, name, record.link)
                for record in records.values():
                    interior.ask_again(record)
                self._let_in(rooms)
                for record in records.values():
                    self._announce(record.link)
                self._let_in(rooms)  # what was in the kernel's hands when the way was switched
            finally:
                for found in rooms:
                    self._rooms.close_soon(found)

    def _let_in(self, rooms: Iterable[Room]) -> None:
        for found in rooms:
            self._put_back(found.tap, found.link, found.emptied())

    # --- packets that wait ---

    def expect(self, container: str, link: Link) -> None:
        if not self.capabilities.expect:
            raise self._refuse("keep packets for who is on the way")
        self._check(link)
        name = self._names.link(container, link.name)
        if netlink.index(name) is not None and self._expected.read(name) is None:
            raise Conflict(f"container {container} has its link {link.name} here", hint="it cannot be on its way to where it is", code="link_here")
        try:
            self._expected.write(name, Record(container=container, link=link))
            with netlink.opened() as host:
                self._open_room(host, container, name, link)
                self._answer(host, link)
            self._announce(link)
        except BaseException:
            self._forget(name)
            raise

    def kept(self, container: str, limit: int) -> dict[str, list[bytes]]:
        if not self.capabilities.expect:
            raise self._refuse("keep packets for who is held")
        found: dict[str, list[bytes]] = {}
        with netlink.opened() as host, self._expecting:
            for name in self._rooms.names(self._names.links_of(container)):
                place = self._rooms.get(name)
                if place is not None:
                    self._lead_away(host, place.link)
                    packets = found[place.link.name] = list(place.emptied())
                    sizes = itertools.accumulate(map(len, packets))
                    del packets[sum(1 for size in sizes if size <= limit) :]
                    limit -= sum(map(len, packets))
        return found

    def bring(self, container: str, packets: Mapping[str, Sequence[bytes]]) -> None:
        if not self.capabilities.expect:
            raise self._refuse("keep packets for who is on the way")
        with self._expecting:
            for link, brought in packets.items():
                place = self._rooms.get(self._names.link(container, link))
                if place is not None:
                    place.bring(brought)

    def _open_room(self, host: Netlink, container: str, name: str, link: Link) -> None:
        """Lead what is for a link to a room of its own. One that somebody has open is a success."""
        try:
            tap = Tap(room(name), ethernet=self.frames)
        except Conflict:
            return
        try:
            self._lead_to(host, tap, container, link)
        except BaseException:
            tap.close()
            raise
        self._rooms.add(name, Room(tap, link, lambda: self._expire(name)))

    def _taken(self, names: Iterable[str]) -> list[Room]:
        """The rooms of links that are expected no longer."""
        with self._expecting:
            found = [self._rooms.take(name) for name in names]
            for name in names:
                self._expected.remove(name)
        return [one for one in found if one is not None]

    def _expire(self, name: str) -> None:
        """Nothing waits for a link any longer, and nothing is drawn here for it. Idempotent."""
        with self._expecting:
            found, record = self._rooms.take(name), self._expected.read(name)
            if record is not None:
                with netlink.opened() as host:
                    self._part(host, self._elements(name, record.link))
        if found is not None:
            found.tap.close()

    def _forget(self, name: str) -> None:
        """A container that was to come is not expected. Idempotent."""
        self._expire(name)
        self._expected.remove(name)

    def _silenced(self) -> dict[str, str | None]:
        return elements.silenced(self._nft.listing(f"list set {self._place} {elements.HELD}"))

    # --- what is here ---

    def inventory(self) -> list[Item]:
        """Links, shapers, rules, holds and records. What :meth:`setup` made is the host's."""
        names = self._names
        items = []
        if netlink.names(names.links) or netlink.names(names.shapers):
            with netlink.opened() as host:
                for link in host.links():
                    if link.name.startswith((names.links, names.shapers)):
                        items.append(Item(kind="link", name=link.name, owner=names.owner(link.alias) or self._recorded(link.name)))
        listing = self._nft.listing(f"list table {self._place}")
        rules = {element.link: owner for element, owner in elements.held(listing, self.sets)}
        items += [Item(kind="rules", name=name, owner=owner) for name, owner in sorted(rules.items())]
        items += [Item(kind="firewall", name=name, owner=owner) for name, owner in sorted(filters.installed(listing).items())]
        items += [Item(kind="hold", name=name, owner=owner) for name, owner in sorted(elements.silenced(listing).items())]
        items += [Item(kind="record", name=name, owner=self._recorded(name)) for name in self._records.names(names.links)]
        for name in self._expected.names(names.links):
            record = self._expected.read(name)
            items.append(Item(kind="expected", name=name, owner=None if record is None else record.container))
        return items

    def _recorded(self, name: str) -> str | None:
        record = self._records.read("v" + name[1:])
        return None if record is None else record.container


def wait_until_operational(host: Netlink, name: str) -> None:
    """Both ends are up, and a bridge forwards through the link. Raises :class:`HostFailure`."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        link = host.link(name)
        if link is not None and link.operational:
            return
        if time.monotonic() > deadline:
            raise HostFailure(f"link {name} did not come up within {_PATIENCE:g} s", hint="its other end may have been removed; try again")
        time.sleep(0.001)
