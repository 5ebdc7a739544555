"""What tenants may send, as nftables commands. Pure: text in, text out.

One table of family ``bridge``. The rules are few and fixed; all that differs between containers is elements of sets, keyed by
the name of the link. So a packet costs the same with two containers and with two thousand, and so does adding one.

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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hostler.core.specs import Link

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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

#: The set in which every link has an element: its link-local address.
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
        f"ether type ip6 oifname . {_SOURCE} @closed6 drop",
    ),
}

#: Chain, hook and priority (before everything else; after everything else), and what sends a packet to which chain.
_HOOKS = (("arrivals", "prerouting priority -300", "iifname", "tenant"), ("departures", "postrouting priority 300", "oifname", "visitor"))


def base(table: str, prefix: str) -> str:
    """Commands that make the table, or bring an older one's rules up to date without a gap; its elements stay.

    ``prefix`` is what the names of tenants' links begin with.
    """
    lines = [f"add table bridge {table}"]
    lines += [f"add set bridge {table} {name} {{ {definition}; }}" for name, definition in _SETS]
    for chain, hook, _, _ in _HOOKS:
        lines.append(f"add chain bridge {table} {chain} {{ type filter hook {hook}; policy accept; }}")
    lines += [f"add chain bridge {table} {chain}" for chain in _CHAINS]
    lines += [f"flush chain bridge {table} {chain}" for chain in (*(hook[0] for hook in _HOOKS), *_CHAINS)]
    lines += [f"add rule bridge {table} {chain} {rule}" for chain, rules in _CHAINS.items() for rule in rules]
    lines += [f'add rule bridge {table} {chain} {side} "{prefix}*" goto {to}' for chain, _, side, to in _HOOKS]
    return "\n".join(lines)


def remove(table: str) -> str:
    """Commands that remove the table and all in it; none is a success."""
    return f"add table bridge {table}\ndelete table bridge {table}"


@dataclass(frozen=True, order=True)
class Element:
    """One element of a set: who may use or see what. ``key`` is as nft writes it, after the link's name."""

    set: str
    link: str
    key: str

    @property
    def text(self) -> str:
        """As nft takes it."""
        return f'"{self.link}" . {self.key}'


def elements(name: str, link: Link) -> list[Element]:
    """All that the sets must hold for a link whose interface is called ``name``."""
    found = []
    own = [ipaddress.ip_interface(address).ip for address in link.addresses]
    for address in (*own, link_local(link.mac)):
        found.append(Element(f"own{address.version}", name, f"{link.mac} . {address}"))
        if address.version == 6:
            found.append(Element("told6", name, _number(int(address))))
    gateways = [ipaddress.ip_address(gateway) for gateway in link.gateways]
    open_to = [ipaddress.ip_network(address) for address in (*own, *gateways)]
    open_to += [ipaddress.ip_network(prefix) for prefix in link.reachable]
    found += (Element(f"reach{network.version}", name, _prefix(network)) for network in collapsed(open_to))
    closed = collapsed(ipaddress.ip_network(prefix) for prefix in link.pool)
    found += (Element(f"closed{network.version}", name, _prefix(network)) for network in closed)
    return found


def admit(table: str, container: str, wanted: Iterable[Element]) -> str:
    """Commands that add elements, marked with their owner."""
    return _commands("add", table, wanted, f' comment "{container}"')


def withdraw(table: str, unwanted: Iterable[Element]) -> str:
    """Commands that delete elements; all must be there. Empty for none."""
    return _commands("delete", table, unwanted, "")


def _commands(verb: str, table: str, chosen: Iterable[Element], tail: str) -> str:
    by_set: dict[str, list[str]] = {}
    for element in chosen:
        by_set.setdefault(element.set, []).append(element.text + tail)
    return "\n".join(f"{verb} element bridge {table} {name} {{ {', '.join(texts)} }}" for name, texts in by_set.items())


def held(listing: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Element, str | None]]:
    """The elements, each with its owner, in what ``list table`` or ``list set`` tells (``libnftables-json(5)``)."""
    for thing in listing:
        for entry in thing.get("set", {}).get("elem", ()):
            body = entry.get("elem", {"val": entry})
            link, *key = body["val"]["concat"]
            yield Element(thing["set"]["name"], link, " . ".join(_key_text(part) for part in key)), body.get("comment")


def _key_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    low, high = part["range"]
    return f"{low}-{high}"


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local address that a kernel makes of a MAC (EUI-64, RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier)


def collapsed(networks: Iterable[Network]) -> list[Network]:
    """The same addresses in as few prefixes as can be: an interval set takes no overlapping elements."""
    both = list(networks)
    v4 = ipaddress.collapse_addresses(network for network in both if isinstance(network, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(network for network in both if isinstance(network, ipaddress.IPv6Network))
    return [*v4, *v6]


def _prefix(network: Network) -> str:
    if isinstance(network, ipaddress.IPv4Network):
        return str(network.network_address) if network.prefixlen == 32 else str(network)
    low, high = int(network.network_address), int(network.broadcast_address)
    return _number(low) if low == high else f"{_number(low)}-{_number(high)}"


def _number(value: int) -> str:
    return f"0x{value:032x}"
