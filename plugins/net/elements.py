"""Elements of nftables sets: who may use or see what. Pure: text in, text out.

The rules that guard tenants are few and fixed; all that differs between containers is elements of sets, keyed by the name of the
link. So a packet costs the same with two containers and with two thousand, and so does adding one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hostler.core.specs import Link
from hostler.host.netlink import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The set of the links that are held. By whole names: newer nft (seen: 1.1.3) cannot delete one prefix from a set of them.
HELD = "silent"
HELD_SET = f"{HELD} {{ type ifname; }}"


@dataclass(frozen=True)
class Place:
    """A table."""

    family: str
    table: str

    def __str__(self) -> str:
        return f"{self.family} {self.table}"


@dataclass(frozen=True, order=True)
class Element:
    """One element of a set. ``key`` is as nft writes it, after the link's name."""

    set: str
    link: str
    key: str

    @property
    def text(self) -> str:
        """As nft takes it."""
        return f'"{self.link}" . {self.key}'


@dataclass(frozen=True)
class Scope:
    """What a link is, and what it may talk to."""

    own: list[Address]
    reachable: list[Network]
    closed: list[Network]

    @classmethod
    def of(cls, link: Link) -> Scope:
        """Itself, its gateways and ``reachable`` are open; the rest of its pool is closed."""
        own = [ipaddress.ip_interface(address).ip for address in link.addresses]
        gateways = [ipaddress.ip_address(gateway) for gateway in link.gateways]
        open_to = [ipaddress.ip_network(address) for address in (*own, *gateways)]
        open_to += [ipaddress.ip_network(prefix) for prefix in link.reachable]
        return cls(own, collapsed(open_to), collapsed(ipaddress.ip_network(prefix) for prefix in link.pool))


def remove(place: Place) -> str:
    """Commands that remove the table and all in it; none is a success."""
    return f"add table {place}\ndelete table {place}"


def admit(place: Place, container: str, wanted: Iterable[Element]) -> str:
    """Commands that add elements, marked with their owner."""
    return _commands("add", place, wanted, f' comment "{container}"')


def withdraw(place: Place, unwanted: Iterable[Element]) -> str:
    """Commands that delete elements; all must be there. Empty for none."""
    return _commands("delete", place, unwanted, "")


def _commands(verb: str, place: Place, chosen: Iterable[Element], tail: str) -> str:
    by_set: dict[str, list[str]] = {}
    for element in chosen:
        by_set.setdefault(element.set, []).append(element.text + tail)
    return "\n".join(f"{verb} element {place} {name} {{ {', '.join(texts)} }}" for name, texts in by_set.items())


def held(listing: Iterable[Mapping[str, Any]], sets: Collection[str]) -> Iterator[tuple[Element, str | None]]:
    """The elements of some sets, each with its owner, in what ``list table`` or ``list set`` tells (``libnftables-json(5)``)."""
    for thing in listing:
        found = thing.get("set", {})
        if found.get("name") not in sets:
            continue
        for entry in found.get("elem", ()):
            body = entry.get("elem", {"val": entry})
            link, *key = body["val"]["concat"]
            yield Element(found["name"], link, " . ".join(_key_text(part) for part in key)), body.get("comment")


def _key_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    low, high = part["range"]
    return f"{low}-{high}"


# --- silence ---


def silence(place: Place, container: str, links: Iterable[str]) -> str:
    """Commands after which no packet passes the container's links, there or not; silenced already is a success. Empty for none."""
    texts = [f'"{link}" comment "{container}"' for link in links]
    return f"add element {place} {HELD} {{ {', '.join(texts)} }}" if texts else ""


def unsilence(place: Place, links: Iterable[str]) -> str:
    """Commands that undo :func:`silence`; not silenced is a success. Empty for none."""
    texts = ", ".join(f'"{link}"' for link in links)
    return "\n".join(f"{verb} element {place} {HELD} {{ {texts} }}" for verb in ("add", "delete")) if texts else ""


def silenced(listing: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """Names of the silenced links, each with its owner."""
    found: dict[str, str | None] = {}
    for thing in listing:
        if thing.get("set", {}).get("name") == HELD:
            for entry in thing["set"].get("elem", ()):
                body = entry["elem"] if isinstance(entry, dict) and "elem" in entry else {"val": entry}
                found[str(body["val"])] = body.get("comment")
    return found


# --- addresses ---


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
