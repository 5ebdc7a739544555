"""Tenants' rules, by value."""

from __future__ import annotations

from typing import Any

import pytest

from hostler.core.specs import FirewallRule
from hostler_plugins.net import filters
from hostler_plugins.net.elements import Place

PLACE = Place("inet", "t")
BOTH: frozenset[filters.Direction] = frozenset({"in", "out"})


def _judged(rule: dict[str, object], refusing: frozenset[filters.Direction] = BOTH) -> list[str]:
    """What one rule becomes."""
    made = FirewallRule.model_validate(rule)
    chain = f"add rule inet t {made.direction}_v1 "
    lines = [line.removeprefix(chain) for line in filters.install(PLACE, "abcd", "v1", [made], refusing).splitlines() if line.startswith(chain)]
    return lines[lines.index("frag frag-off != 0 accept") + 3 : -1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"action": "drop"}, ["drop"]),
        ({"action": "accept"}, ["goto okin_v1"]),
        ({"action": "drop", "protocol": "tcp", "ports": (80, 80)}, ["tcp dport 80 drop"]),
        ({"action": "accept", "protocol": "udp", "ports": (80, 90), "direction": "out"}, ["udp dport 80-90 goto okout_v1"]),
        ({"action": "drop", "protocol": "icmp", "peer": "fd00::/8"}, ["ip6 saddr fd00::/8 meta l4proto { icmp, ipv6-icmp } drop"]),
        ({"action": "drop", "peer": "198.18.0.0/15", "direction": "out"}, ["ip daddr 198.18.0.0/15 drop"]),
        ({"action": "drop", "peer": "0.0.0.0/0"}, ["meta protocol ip drop"]),
        ({"action": "reject", "protocol": "tcp", "ports": (80, 80)}, ["tcp dport 80 reject with tcp reset"]),
        ({"action": "reject"}, ["meta l4proto tcp reject with tcp reset", "reject with icmpx port-unreachable"]),
    ],
)
def test_rules(rule: dict[str, object], expected: list[str]) -> None:
    assert _judged(rule) == expected


def test_what_cannot_be_refused_is_dropped() -> None:
    assert _judged({"action": "reject"}, frozenset({"out"})) == ["drop"]


def test_no_rules_are_no_chains() -> None:
    assert filters.install(PLACE, "abcd", "v1", [], BOTH) == filters.uninstall(PLACE, "v1")


def test_the_links_that_have_rules_are_told() -> None:
    entry = [{"elem": {"val": "v1", "comment": "abcd"}}, {"goto": {"target": "in_v1"}}]
    listing: list[dict[str, Any]] = [{"map": {"name": "firewall_in", "elem": [entry, ["v2", {"goto": {"target": "in_v2"}}]]}}, {"map": {"name": "firewall_out"}}]
    assert filters.installed(listing) == {"v1": "abcd", "v2": None}
