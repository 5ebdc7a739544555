"""What tenants with routed links may send, as nftables commands. Pure: text in, text out.

One table of family ``inet``: the server is a router, and no frame of a tenant gets farther than to it. What leaves a container
passes when its source address is the container's own and its destination is reachable, or not in the pool at all; multicast
and neighbour discovery have nobody to talk to. What enters passes when its source is reachable or not in the pool.

The rest is as in :mod:`.guard`: an interface with the prefix of ours and no elements may send nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostler.core.specs import Link
from hostler_plugins.net import elements as elements_of
from hostler_plugins.net import filters
from hostler_plugins.net.elements import HELD, HELD_SET, Element, Place, Scope

_SETS = (
    ("own4", "type ifname . ipv4_addr"),
    ("own6", "type ifname . ipv6_addr"),
    ("reach4", "type ifname . ipv4_addr; flags interval"),
    ("reach6", "type ifname . ipv6_addr; flags interval"),
    ("closed4", "type ifname . ipv4_addr; flags interval"),
    ("closed6", "type ifname . ipv6_addr; flags interval"),
    ("register", "type ifname . ipv4_addr"),
)
#: All sets, and the one in which every link has an element, whatever its addresses.
SETS = frozenset(name for name, _ in _SETS)
REGISTER = "register"
#: Those of the containers' own addresses.
OWN = ("own4", "own6")

_CHAINS: Mapping[str, tuple[str, ...]] = {
    "tenant": (
        "meta protocol vmap { ip : goto tenant_ip4, ip6 : goto tenant_ip6 }",
        "drop",
    ),
    "tenant_ip4": (
        "iifname . ip saddr != @own4 drop",
        "ip daddr 224.0.0.0/3 drop",
        "icmp type { redirect, router-advertisement } drop",
        "iifname . ip daddr @reach4 accept",
        "iifname . ip daddr @closed4 drop",
        "accept",
    ),
    "tenant_ip6": (
        "iifname . ip6 saddr != @own6 drop",
        "ip6 daddr { ff00::/8, fe80::/10 } drop",
        "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect } drop",
        "iifname . ip6 daddr @reach6 accept",
        "iifname . ip6 daddr @closed6 drop",
        "accept",
    ),
    "visitor": (
        "oifname . ip saddr @reach4 return",
        "oifname . ip saddr @closed4 drop",
        "oifname . ip6 saddr @reach6 return",
        "oifname . ip6 saddr @closed6 drop",
    ),
}

#: Before connection tracking and any address translation.
_ARRIVALS = ("arrivals", "prerouting priority -350")
#: Where tenants' rules judge: what is forwarded, what is for the server, what it sends itself. There the kernel can answer what they reject.
_OUT = (("wanted_out", "forward priority 10"), ("wanted_out_here", "input priority 10"))
_IN = (("wanted_in", "forward priority 20"), ("wanted_in_here", "output priority 20"))
#: What routers say about packets of the tenant: this server and others, which may live in the pool. Tenants on them cannot
#: send such to strangers; without a packet that they speak of they do nothing.
_ERRORS = (
    "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
)
_FOREIGN = ("foreign", "forward priority 0")

#: Where bridges call the hooks of IP (``net.bridge.bridge-nf-call-ip6tables``, which is on unless somebody says no), frames that a
#: bridge hands on come to a router's rules too, as packets from the bridge to the bridge. So do packets that are routed from one
#: bridge to another, which these rules are for. A bit of the packet's mark tells them apart, from just before that call (priority
#: -1 or 0) until just after it.
_HANDED_ON = 1 << 29
_MARKING = (
    ("before", "forward priority -2", f"meta protocol {{ ip, ip6 }} meta mark set meta mark | {_HANDED_ON:#x}"),
    ("after", "forward priority 1", f"meta mark set meta mark & {0xFFFFFFFF ^ _HANDED_ON:#x}"),
)


@dataclass(frozen=True)
class Closed:
    """What forwarded nothing before this driver came, and goes on to forward nothing but tenants' packets."""

    v4_uplink: str | None = None
    """An interface that forwarded no IPv4."""
    v6: bool = False
    """The server forwarded no IPv6."""

    @property
    def anything(self) -> bool:
        """Whether there is something to keep closed."""
        return self.v6 or self.v4_uplink is not None


def remove(place: Place) -> str:
    """Commands that remove all that :func:`base` makes; none is a success."""
    return f"{elements_of.remove(place)}\n{_remove_marking(place)}"


def _remove_marking(place: Place) -> str:
    return elements_of.remove(_bridged(place))


def _bridged(place: Place) -> Place:
    return Place("bridge", place.table)


def _marking(place: Place, closed: Closed) -> Iterator[str]:
    if closed.anything:
        where = _bridged(place)
        yield f"add table {where}"
        for chain, hook, rule in _MARKING:
            yield f"add chain {where} {chain} {{ type filter hook {hook}; policy accept; }}"
            yield f"add rule {where} {chain} {rule}"


def base(place: Place, prefix: str, rooms: str, closed: Closed) -> str:
    """Commands that make the table, or bring an older one's rules up to date without a gap; its elements stay.

    ``prefix`` is what the names of tenants' links begin with, ``rooms`` those of the devices in which packets wait for one.
    """
    lines = [_remove_marking(place), *_marking(place, closed)]
    lines += [f"add table {place}", f"add set {place} {HELD_SET}", *filters.maps(place)]
    lines += [f"add set {place} {name} {{ {definition}; }}" for name, definition in _SETS]
    hooks = (_ARRIVALS, *_OUT, *_IN, _FOREIGN)
    lines += [f"add chain {place} {chain} {{ type filter hook {hook}; policy accept; }}" for chain, hook in hooks]
    lines += [f"add chain {place} {chain}" for chain in _CHAINS]
    lines += [f"flush chain {place} {chain}" for chain in (*(chain for chain, _ in hooks), *_CHAINS)]
    lines += [f"add rule {place} {chain} {rule}" for chain, rules in _CHAINS.items() for rule in rules]
    lines += [f"add rule {place} {chain} {rule}" for chain, rule in _hooked(prefix, rooms, closed)]
    return "\n".join(lines)


def _hooked(prefix: str, rooms: str, closed: Closed) -> Iterator[tuple[str, str]]:
    yield _ARRIVALS[0], f"iifname @{HELD} drop"
    yield _ARRIVALS[0], f'iifname "{prefix}*" goto tenant'
    for chain, _ in _OUT:
        yield chain, filters.dispatch("out")
    for chain, _ in _IN:
        yield chain, f"oifname @{HELD} drop"
        for rule in _ERRORS:
            yield chain, f'oifname "{prefix}*" {rule}'
        yield chain, f'oifname "{prefix}*" jump visitor'
        yield chain, filters.dispatch("in")
    if closed.anything:
        yield _FOREIGN[0], f'meta iifkind "bridge" meta oifkind "bridge" meta mark & {_HANDED_ON:#x} != 0 accept'
        yield _FOREIGN[0], f'oifname "{rooms}*" accept'
    if closed.v4_uplink is not None:
        yield _FOREIGN[0], f'meta nfproto ipv4 iifname "{closed.v4_uplink}" oifname != "{prefix}*" drop'
    if closed.v6:
        yield _FOREIGN[0], f'meta nfproto ipv6 iifname != "{prefix}*" oifname != "{prefix}*" drop'


def elements(name: str, link: Link) -> list[Element]:
    """All that the sets must hold for a link whose interface is called ``name``."""
    scope = Scope.of(link)
    found = [Element(REGISTER, name, "0.0.0.0")]
    found += (Element(f"own{address.version}", name, str(address)) for address in scope.own)
    for kind, networks in (("reach", scope.reachable), ("closed", scope.closed)):
        for network in networks:
            single = network.prefixlen == network.max_prefixlen
            found.append(Element(f"{kind}{network.version}", name, str(network.network_address if single else network)))
    return found
