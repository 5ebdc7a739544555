"""What tenants on a bridge may send, as nftables commands. Pure: text in, text out.

One table of family ``bridge``. All that differs between containers is :mod:`.elements`, and behind them the tenants' own
:mod:`.filters`.

What leaves a container passes when
* its source MAC and address (of IP, of ARP's sender, of a neighbour advertisement's target) are the container's own;
* its destination is reachable, or is not in the pool at all; the same for what ARP and neighbour solicitations ask about;
* it is not what only routers and servers say: router advertisement, redirect, DHCP answers;
* it is IPv4, IPv6 or ARP, untagged, to one receiver. Multicast is for neighbour discovery and its group reports alone: tenants
  share the segment, and what one shouts others would hear.

What enters a container passes when its source is reachable or not in the pool: that covers senders which nobody guards.

An interface with the prefix of ours and no elements may send nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from hostler.core.specs import Link
from hostler_plugins.net import filters
from hostler_plugins.net.elements import HELD, HELD_SET, Element, Network, Place, Scope, link_local

#: The IPv6 destination address (network header, byte 24) and the target of a neighbour message (after 8 bytes of ICMPv6).
#: Raw, because older versions of nft (Debian 12's) have no name for the latter, and one set serves both.
_DESTINATION, _SOURCE, _TARGET = "@nh,192,128", "@nh,64,128", "@th,64,128"

_SETS = (
    ("own4", "type ifname . ether_addr . ipv4_addr"),
    ("own6", "type ifname . ether_addr . ipv6_addr"),
    ("told6", f"typeof iifname . {_TARGET}"),
    ("reach4", "type ifname . ipv4_addr; flags interval"),
    ("reach6", f"typeof iifname . {_TARGET}; flags interval"),
    ("closed4", "type ifname . ipv4_addr; flags interval"),
    ("closed6", f"typeof iifname . {_TARGET}; flags interval"),
)

#: All sets, and the one in which every link has an element: its link-local address.
SETS = frozenset(name for name, _ in _SETS)
REGISTER = "own6"

_CHAINS: Mapping[str, tuple[str, ...]] = {
    "tenant": (
        "ether type vmap { ip : goto tenant_ip4, ip6 : goto tenant_ip6, arp : goto tenant_arp }",
        "drop",
    ),
    "tenant_arp": (
        "arp htype != 1 drop",
        "arp ptype != 0x0800 drop",
        "arp hlen != 6 drop",
        "arp plen != 4 drop",
        "iifname . ether saddr . arp saddr ip != @own4 drop",
        "iifname . arp saddr ether . arp saddr ip != @own4 drop",
        "iifname . arp daddr ip @reach4 accept",
        "iifname . arp daddr ip @closed4 drop",
        "accept",
    ),
    "tenant_ip4": (
        "iifname . ether saddr . ip saddr != @own4 drop",
        "meta pkttype { broadcast, multicast } drop",
        "ip daddr 224.0.0.0/3 drop",
        "udp sport 67 drop",
        "icmp type { redirect, router-advertisement } drop",
        "iifname . ip daddr @reach4 accept",
        "iifname . ip daddr @closed4 drop",
        "accept",
    ),
    "tenant_ip6": (
        "iifname . ether saddr . ip6 saddr != @own6 drop",
        "icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query } drop",
        "icmpv6 type nd-neighbor-solicit goto tenant_ask",
        f"icmpv6 type nd-neighbor-advert iifname . {_TARGET} @told6 accept",
        "icmpv6 type nd-neighbor-advert drop",
        "ip6 daddr ff02::/16 icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept",
        "meta pkttype { broadcast, multicast } drop",
        "ip6 daddr ff00::/8 drop",
        "udp sport 547 drop",
        f"iifname . {_DESTINATION} @reach6 accept",
        "ip6 daddr fe80::/10 drop",
        f"iifname . {_DESTINATION} @closed6 drop",
        "accept",
    ),
    "tenant_ask": (
        f"iifname . {_TARGET} @reach6 accept",
        f"iifname . {_TARGET} @closed6 drop",
        "accept",
    ),
    "visitor": (
        "ether type ip oifname . ip saddr @reach4 accept",
        "ether type ip oifname . ip saddr @closed4 drop",
        f"ether type ip6 oifname . {_SOURCE} @reach6 accept",
        # a server that answers for a routed container does so from an address of its own
        f"icmpv6 type nd-neighbor-advert oifname . {_TARGET} @reach6 accept",
        f"ether type ip6 oifname . {_SOURCE} @closed6 drop",
    ),
}

#: Chain, hook and priority (before everything else; after everything else), and what sends a packet to which chain.
_HOOKS = (("arrivals", "prerouting priority -300", "iifname", "tenant"), ("departures", "postrouting priority 300", "oifname", "visitor"))
#: The tenants' own rules come behind those; they are base chains of their own, for a packet may meet two tenants' rules.
_TENANTS: tuple[tuple[str, str, filters.Direction], ...] = (
    ("wanted_out", "prerouting priority -290", "out"),
    ("wanted_in", "postrouting priority 310", "in"),
)


def base(place: Place, prefix: str) -> str:
    """Commands that make the table, or bring an older one's rules up to date without a gap; its elements stay.

    ``prefix`` is what the names of tenants' links begin with.
    """
    lines = [f"add table {place}", f"add set {place} {HELD_SET}", *filters.maps(place)]
    lines += [f"add set {place} {name} {{ {definition}; }}" for name, definition in _SETS]
    hooks = [(chain, hook) for chain, hook, *_ in (*_HOOKS, *_TENANTS)]
    lines += [f"add chain {place} {chain} {{ type filter hook {hook}; policy accept; }}" for chain, hook in hooks]
    lines += [f"add chain {place} {chain}" for chain in _CHAINS]
    lines += [f"flush chain {place} {chain}" for chain in (*(chain for chain, _ in hooks), *_CHAINS)]
    lines += [f"add rule {place} {chain} {rule}" for chain, rules in _CHAINS.items() for rule in rules]
    for chain, _, side, to in _HOOKS:
        lines.append(f"add rule {place} {chain} {side} @{HELD} drop")
        lines.append(f'add rule {place} {chain} {side} "{prefix}*" goto {to}')
    lines += [f"add rule {place} {chain} {filters.dispatch(direction)}" for chain, _, direction in _TENANTS]
    return "\n".join(lines)


def elements(name: str, link: Link) -> list[Element]:
    """All that the sets must hold for a link whose interface is called ``name``."""
    found = []
    scope = Scope.of(link)
    for address in (*scope.own, link_local(link.mac)):
        found.append(Element(f"own{address.version}", name, f"{link.mac} . {address}"))
        if address.version == 6:
            found.append(Element("told6", name, _number(int(address))))
    found += (Element(f"reach{network.version}", name, _prefix(network)) for network in scope.reachable)
    found += (Element(f"closed{network.version}", name, _prefix(network)) for network in scope.closed)
    return found


def _prefix(network: Network) -> str:
    if isinstance(network, ipaddress.IPv4Network):
        return str(network.network_address) if network.prefixlen == 32 else str(network)
    low, high = int(network.network_address), int(network.broadcast_address)
    return _number(low) if low == high else f"{_number(low)}-{_number(high)}"


def _number(value: int) -> str:
    return f"0x{value:032x}"
