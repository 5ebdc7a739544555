"""What the rules are made of, by value."""

from __future__ import annotations

import ipaddress
from typing import Any

from hostler.core.specs import Link
from hostler_plugins.net import elements, guard
from hostler_plugins.net.elements import Element, Place

PLACE = Place("bridge", "t")
LINK = Link(
    mac="02:00:c6:12:01:02",
    addresses=("198.18.1.2/15", "fd00::102/48"),
    gateways=("198.18.0.1", "fd00::1"),
    pool=("198.18.0.0/15", "fd00::/48"),
    reachable=("198.18.1.0/24", "fd00::100/120"),
)


def test_a_link_local_address_is_made_of_the_mac() -> None:
    assert elements.link_local("02:00:c6:12:01:02") == ipaddress.IPv6Address("fe80::c6ff:fe12:102")


def test_the_elements_of_a_link() -> None:
    assert sorted((element.set, element.key) for element in guard.elements("v1", LINK)) == [
        ("closed4", "198.18.0.0/15"),
        ("closed6", _range("fd00::/48")),
        ("own4", "02:00:c6:12:01:02 . 198.18.1.2"),
        ("own6", "02:00:c6:12:01:02 . fd00::102"),
        ("own6", "02:00:c6:12:01:02 . fe80::c6ff:fe12:102"),
        ("reach4", "198.18.0.1"),
        ("reach4", "198.18.1.0/24"),
        ("reach6", "0xfd000000000000000000000000000001"),
        ("reach6", _range("fd00::100/120")),
        ("told6", "0xfd000000000000000000000000000102"),
        ("told6", "0xfe800000000000000000c6fffe120102"),
    ]


def _range(prefix: str) -> str:
    network = ipaddress.IPv6Network(prefix)
    return f"0x{network.network_address.packed.hex()}-0x{network.broadcast_address.packed.hex()}"


def test_without_a_pool_nothing_is_closed() -> None:
    open_link = LINK.model_copy(update={"pool": ()})
    assert not [element for element in guard.elements("v1", open_link) if element.set.startswith("closed")]


def test_prefixes_never_overlap_because_interval_sets_refuse_that() -> None:
    wide = LINK.model_copy(update={"reachable": ("198.18.0.0/23", "198.18.1.0/24", "fd00::/64")})
    keys = [element.key for element in guard.elements("v1", wide) if element.set.startswith("reach")]
    assert keys == ["198.18.0.0/23", _range("fd00::/64")]


def test_elements_are_added_with_their_owner_and_deleted_without() -> None:
    element = Element("reach4", "v1", "198.18.0.1")
    assert elements.admit(PLACE, "abcd", [element]) == 'add element bridge t reach4 { "v1" . 198.18.0.1 comment "abcd" }'
    assert elements.withdraw(PLACE, [element]) == 'delete element bridge t reach4 { "v1" . 198.18.0.1 }'


def test_what_the_kernel_tells_reads_back_as_the_same_elements() -> None:
    listing: list[dict[str, Any]] = [
        {"metainfo": {}},
        {"set": {"name": "reach4", "elem": [{"elem": {"val": {"concat": ["v1", {"prefix": {"addr": "198.18.1.0", "len": 24}}]}, "comment": "abcd"}}]}},
        {"set": {"name": "own4", "elem": [{"concat": ["v2", "02:00:c6:12:01:02", "198.18.1.2"]}]}},
        {"set": {"name": "reach6", "elem": [{"elem": {"val": {"concat": ["v1", {"range": ["0x01", "0x02"]}]}, "comment": "abcd"}}]}},
        {"set": {"name": "told6"}},
        {"set": {"name": "silent", "elem": ["v3", {"elem": {"val": "v4", "comment": "abcd"}}]}},
        {"set": {"name": "u4_v1", "elem": [{"concat": ["198.18.1.2", 53, "198.18.1.3", 53]}]}},
    ]
    assert list(elements.held(listing, guard.SETS)) == [
        (Element("reach4", "v1", "198.18.1.0/24"), "abcd"),
        (Element("own4", "v2", "02:00:c6:12:01:02 . 198.18.1.2"), None),
        (Element("reach6", "v1", "0x01-0x02"), "abcd"),
    ]
    assert elements.silenced(listing) == {"v3": None, "v4": "abcd"}


def test_a_link_of_ours_without_elements_may_send_nothing() -> None:
    commands = guard.base(PLACE, "vabcd")
    assert 'add rule bridge t arrivals iifname "vabcd*" goto tenant' in commands
    assert [line for line in commands.splitlines() if line.startswith("add rule bridge t tenant ")][-1] == "add rule bridge t tenant drop"
