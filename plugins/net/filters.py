"""A tenant's own firewall, as nftables commands. Pure: text in, text out.

Two chains a link, reached by verdict maps keyed by the link's name, so that links without rules cost nothing and a
replacement is one transaction. They lie on the host, behind the guard, where nothing inside the container can change them.

They do without connection tracking: the kernel's bridge family may have none, its table is one for all tenants, and it
forgets when a container moves. Instead

* of TCP, rules judge the packet that opens a connection (SYN without ACK): what is open stays so, whatever becomes of
  the rules. A stray packet of no connection is the receiving kernel's to refuse;
* of UDP, what was accepted is remembered in a set of the link, with its answers, for :data:`UDP_PATIENCE` after its last packet;
* of ICMP, rules judge questions; errors and answers pass. Neighbour discovery and ARP are the guard's;
* fragments but the first pass: alone they are nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from hostler.core.specs import FirewallRule
from hostler_plugins.net.elements import Place

Direction = Literal["in", "out"]

#: Seconds for which a UDP conversation is remembered after its last packet; RFC 4787 asks for 120 at least.
UDP_PATIENCE = 180
#: UDP conversations of one link in one family. Beyond them each packet is judged by the rules alone.
UDP_LIMIT = 16_384

_MAPS: dict[Direction, str] = {"in": "firewall_in", "out": "firewall_out"}
_ICMP = "icmp type { echo-reply, destination-unreachable, time-exceeded, parameter-problem } accept"
_ICMPV6 = (
    "icmpv6 type { echo-reply, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-neighbor-solicit, "
    "nd-neighbor-advert, nd-router-solicit, nd-router-advert, mld-listener-query, mld-listener-report, mld-listener-done, "
    "mld2-listener-report } accept"
)


def maps(place: Place) -> list[str]:
    """Commands that make the two maps."""
    return [f"add map {place} {name} {{ type ifname : verdict; }}" for name in _MAPS.values()]


def map_of(direction: Direction) -> str:
    """Name of the map from links to chains."""
    return _MAPS[direction]


def dispatch(direction: Direction) -> str:
    """The rule that sends a link's packets to its chain. It must be in a base chain of its own: what it accepts leaves that."""
    return f"{'oifname' if direction == 'in' else 'iifname'} vmap @{_MAPS[direction]}"


def install(place: Place, container: str, name: str, rules: Iterable[FirewallRule], refusing: frozenset[Direction]) -> str:
    """Commands that give link ``name`` these rules in place of all it has, at one instant. UDP conversations stay.

    ``refusing``: in which directions the kernel can answer what is rejected; elsewhere it is dropped.
    """
    chosen = list(rules)
    if not chosen:
        return uninstall(place, name)
    lines = _parts(place, name)
    for direction in _MAPS:
        chain = f"{place} {direction}_{name}"
        lines += [f"add rule {chain} {rule}" for rule in _preamble(name, direction, place.family)]
        for rule in chosen:
            if rule.direction == direction:
                lines += [f"add rule {chain} {text}" for text in _rule(name, rule, direction in refusing)]
        lines.append(f"add rule {chain} goto ok{direction}_{name}")
        lines += [f"add rule {place} ok{direction}_{name} {rule}" for rule in _remember(name, direction)]
    lines += [f'add element {place} {to} {{ "{name}" comment "{container}" : goto {side}_{name} }}' for side, to in _MAPS.items()]
    return "\n".join(lines)


def uninstall(place: Place, name: str) -> str:
    """Commands that take the rules of a link away; none is a success, even in a table without maps."""
    lines = [*maps(place), *_parts(place, name)]
    for direction, to in _MAPS.items():
        element = f'{place} {to} {{ "{name}" : goto {direction}_{name} }}'
        lines += [f"add element {element}", f"delete element {element}"]
    lines += [f"delete chain {place} {chain}" for chain in _chains(name)]
    lines += [f"delete set {place} {conversations}{name}" for conversations in ("u4_", "u6_")]
    return "\n".join(lines)


def installed(listing: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """Links that have rules, each with its owner, in what ``list table`` tells (``libnftables-json(5)``)."""
    found: dict[str, str | None] = {}
    for thing in listing:
        if thing.get("map", {}).get("name") in _MAPS.values():
            for key, _ in thing["map"].get("elem", ()):
                body = key["elem"] if isinstance(key, dict) else {"val": key}
                found[body["val"]] = body.get("comment")
    return found


def _chains(name: str) -> list[str]:
    """Those that go to others first: a chain is deleted after what refers to it."""
    return [f"{kind}{direction}_{name}" for kind in ("", "ok") for direction in _MAPS]


def _parts(place: Place, name: str) -> list[str]:
    """All that a link's rules are made of, there and empty; conversations keep what they hold."""
    lines = [
        f"add set {place} u{version}_{name} {{ type {kind} . inet_service . {kind} . inet_service; "
        f"flags dynamic,timeout; timeout {UDP_PATIENCE}s; size {UDP_LIMIT}; }}"
        for version, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr"))
    ]
    lines += [f"add chain {place} {chain}" for chain in _chains(name)]
    return lines + [f"flush chain {place} {chain}" for chain in _chains(name)]


def _conversation(ip: str, direction: Direction) -> str:
    """The container's address and port, then the other side's."""
    own, other = ("daddr", "dport"), ("saddr", "sport")
    if direction == "out":
        own, other = ("saddr", "sport"), ("daddr", "dport")
    return f"{ip} {own[0]} . udp {own[1]} . {ip} {other[0]} . udp {other[1]}"


def _preamble(name: str, direction: Direction, family: str) -> Iterator[str]:
    if family in ("bridge", "netdev"):
        yield "meta protocol arp accept"
    yield "tcp flags & (syn | ack) != syn accept"
    yield _ICMP
    yield _ICMPV6
    yield "ip frag-off & 0x1fff != 0 accept"
    yield "frag frag-off != 0 accept"
    for version, ip in (("4", "ip"), ("6", "ip6")):
        said = _conversation(ip, direction)
        yield f"{said} @u{version}_{name} update @u{version}_{name} {{ {said} }} accept"


def _remember(name: str, direction: Direction) -> Iterator[str]:
    for version, ip in (("4", "ip"), ("6", "ip6")):
        yield f"add @u{version}_{name} {{ {_conversation(ip, direction)} }} accept"
    yield "accept"


def _rule(name: str, rule: FirewallRule, refusing: bool) -> list[str]:
    match = " ".join(part for part in (_peer(rule), _protocol(rule)) if part)
    if rule.action == "accept":
        return [f"{match} goto ok{rule.direction}_{name}".strip()]
    if rule.action == "drop" or not refusing:
        return [f"{match} drop".strip()]
    refusals = []
    if rule.protocol in ("any", "tcp"):
        of_tcp = match if rule.ports else f"{_peer(rule)} meta l4proto tcp".strip()
        refusals.append(f"{of_tcp} reject with tcp reset")
    if rule.protocol != "tcp":
        refusals.append(f"{match} reject with icmpx port-unreachable".strip())
    return refusals


def _peer(rule: FirewallRule) -> str:
    if not rule.peer:
        return ""
    network = ipaddress.ip_network(rule.peer)
    kind = "ip" if network.version == 4 else "ip6"
    if network.prefixlen == 0:
        return f"meta protocol {kind}"
    return f"{kind} {'saddr' if rule.direction == 'in' else 'daddr'} {network}"


def _protocol(rule: FirewallRule) -> str:
    if rule.ports is not None:
        first, last = rule.ports
        return f"{rule.protocol} dport {first}" if first == last else f"{rule.protocol} dport {first}-{last}"
    return {"any": "", "icmp": "meta l4proto { icmp, ipv6-icmp }"}.get(rule.protocol, f"meta l4proto {rule.protocol}")
