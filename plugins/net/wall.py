"""What a macvlan link may send, as nftables commands. Pure: text in, text out.

One table of family ``netdev`` in the container's own network namespace, on the link itself. There the container's root has no
power (no CAP_NET_ADMIN over it), and there alone all passes: what containers of one server send each other never gets to the
server. The rules are those of :mod:`.guard`, with this one link's addresses written into them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hostler.core.specs import Link
from hostler.host.netlink import Address
from hostler_plugins.net import filters
from hostler_plugins.net.elements import HELD, HELD_SET, Network, Place, Scope, link_local

_TARGET = "@th,64,128"  # of a neighbour message, after 8 bytes of ICMPv6


def base(place: Place, link: Link) -> str:
    """Commands that make the table of a link, whose interface is there."""
    scope = Scope.of(link)
    chains = {
        "tenant": _tenant(link),
        "tenant_arp": _arp(link, scope),
        "tenant_ip4": _ip4(link, scope),
        "tenant_ip6": _ip6(link, scope),
        "visitor": _visitor(scope),
    }
    hooks = {
        "departures": ("egress", -300, [f"oifname @{HELD} drop", "goto tenant"]),
        "arrivals": ("ingress", -300, [f"iifname @{HELD} drop", "goto visitor"]),
        "wanted_out": ("egress", -290, [f"oifname vmap @{filters.map_of('out')}"]),
        "wanted_in": ("ingress", -290, [f"iifname vmap @{filters.map_of('in')}"]),
    }
    lines = [f"add table {place}", f"add set {place} {HELD_SET}", *filters.maps(place)]
    lines += [f"add chain {place} {chain}" for chain in chains]
    lines += [f"add rule {place} {chain} {rule}" for chain, rules in chains.items() for rule in rules]
    for chain, (hook, priority, rules) in hooks.items():
        lines.append(f'add chain {place} {chain} {{ type filter hook {hook} device "{link.name}" priority {priority}; policy accept; }}')
        lines += [f"add rule {place} {chain} {rule}" for rule in rules]
    return "\n".join(lines)


def _tenant(link: Link) -> Iterator[str]:
    yield f"ether saddr != {link.mac} drop"
    yield "ether type vmap { ip : goto tenant_ip4, ip6 : goto tenant_ip6, arp : goto tenant_arp }"
    yield "drop"


def _own(link: Link, scope: Scope, version: int) -> list[Address]:
    return [address for address in (*scope.own, link_local(link.mac)) if address.version == version]


def _any(things: Iterable[Address | Network]) -> str:
    return f"{{ {', '.join(map(str, things))} }}"


def _arp(link: Link, scope: Scope) -> Iterator[str]:
    own = _own(link, scope, 4)
    if own:
        yield "arp htype != 1 drop"
        yield "arp ptype != 0x0800 drop"
        yield f"arp saddr ip != {_any(own)} drop"
        yield f"arp saddr ether != {link.mac} drop"
        yield from _verdicts(scope, 4, "arp daddr ip")
    else:
        yield "drop"


def _ip4(link: Link, scope: Scope) -> Iterator[str]:
    own = _own(link, scope, 4)
    if own:
        yield f"ip saddr != {_any(own)} drop"
        yield "ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 drop"
        yield "ip daddr 224.0.0.0/3 drop"
        yield "udp sport 67 drop"
        yield "icmp type { redirect, router-advertisement } drop"
        yield from _verdicts(scope, 4, "ip daddr")
    else:
        yield "drop"


def _ip6(link: Link, scope: Scope) -> Iterator[str]:
    own = _own(link, scope, 6)
    yield f"ip6 saddr != {_any(own)} drop"
    yield "icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query } drop"
    for network in _of(scope.reachable, 6):
        yield f"icmpv6 type nd-neighbor-solicit {_target(network)} accept"
    for network in _of(scope.closed, 6):
        yield f"icmpv6 type nd-neighbor-solicit {_target(network)} drop"
    yield "icmpv6 type nd-neighbor-solicit accept"
    for address in own:
        yield f"icmpv6 type nd-neighbor-advert {_TARGET} == 0x{int(address):032x} accept"
    yield "icmpv6 type nd-neighbor-advert drop"
    yield "ip6 daddr ff02::/16 icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept"
    yield "ip6 daddr ff00::/8 drop"
    yield "ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 drop"
    yield "udp sport 547 drop"
    yield from _listed("ip6 daddr", _of(scope.reachable, 6), "accept")
    yield "ip6 daddr fe80::/10 drop"
    yield from _listed("ip6 daddr", _of(scope.closed, 6), "drop")


def _visitor(scope: Scope) -> Iterator[str]:
    for version, field in ((4, "ip saddr"), (6, "ip6 saddr")):
        yield from _listed(field, _of(scope.reachable, version), "accept")
    for network in _of(scope.reachable, 6):  # a server that answers for a routed container does so from an address of its own
        yield f"icmpv6 type nd-neighbor-advert {_target(network)} accept"
    for version, field in ((4, "ip saddr"), (6, "ip6 saddr")):
        yield from _listed(field, _of(scope.closed, version), "drop")


def _verdicts(scope: Scope, version: int, field: str) -> Iterator[str]:
    yield from _listed(field, _of(scope.reachable, version), "accept")
    yield from _listed(field, _of(scope.closed, version), "drop")


def _listed(field: str, networks: list[Network], verdict: str) -> Iterator[str]:
    if networks:
        yield f"{field} {_any(networks)} {verdict}"


def _of(networks: Iterable[Network], version: int) -> list[Network]:
    return [network for network in networks if network.version == version]


def _target(network: Network) -> str:
    return f"{_TARGET} & 0x{int(network.netmask):032x} == 0x{int(network.network_address):032x}"
