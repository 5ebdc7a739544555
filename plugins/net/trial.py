"""What the kernel offers the drivers, found by doing it in an empty network namespace that ends with the trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hostler.core.errors import HostFailure
from hostler.core.specs import FirewallRule, Link
from hostler.host import netlink, netns, nftables
from hostler.host.tap import Instruction, Tap
from hostler_plugins.net import filters, gate, guard, rates, wall
from hostler_plugins.net.elements import Place
from hostler_plugins.net.filters import Direction

_BRIDGE, _LINK, _PEER, _ROOM, _MAC = "trial0", "vtrial0", "trial1", "wtrial0", "02:00:00:00:00:01"
_EVERY_KIND = (
    FirewallRule(action="accept", protocol="tcp", ports=(80, 81), peer="198.18.0.0/15"),
    FirewallRule(action="drop", protocol="udp", ports=(53, 53), peer="fd00::/8", direction="out"),
    FirewallRule(action="drop", protocol="icmp"),
)
_REJECT = (FirewallRule(action="reject", direction="out"), FirewallRule(action="reject", direction="in"))
_SILENT = {
    "bridge": "a bridge answers what containers send, not what it has switched to one",
    "netdev": "nothing is answered from where a macvlan's rules are",
}
_KERNEL = "use a kernel with {}, or load the modules"


@dataclass(frozen=True)
class Outcome:
    """For each ability None, or why it is missing."""

    joining: str
    """Of the driver's own, in words: what its links hang on, which it cannot do without."""
    links: str | None
    rules: str | None
    rate_in: str | None
    rate_out: str | None
    firewall: str | None
    refusal: str | None
    """Answers to what a tenant's rules reject."""
    waiting: str | None
    """Devices in which packets wait for a container that moves."""
    refusing: frozenset[Direction] = frozenset()
    """Directions in which there are such answers."""

    @classmethod
    def of_nothing(cls, joining: str, why: str) -> Outcome:
        """Not even links."""
        return cls(joining, why, why, why, why, why, why, why)

    def offers(self) -> list[str]:
        """What works, in words."""
        words = {
            "links": self.joining,
            "rules": "anti-spoofing, isolation and holding by nftables",
            "rate_in": "rate towards containers (tbf)",
            "rate_out": "rate from containers (ifb, clsact, u32, mirred, tbf)",
            "firewall": "tenants' firewalls by nftables",
            "refusal": "answers to what a firewall rejects",
            "waiting": "packets wait for containers that stand still or move (tun)",
        }
        return [text for ability, text in words.items() if getattr(self, ability) is None]

    def lacks(self) -> list[tuple[str, str, bool]]:
        """What does not, the remedy, and whether the driver cannot work without."""
        known = (
            (f"no {self.joining}", self.links, _KERNEL.format("bridge, veth and macvlan"), True),
            ("no anti-spoofing and isolation", self.rules, "install libnftables1; " + _KERNEL.format("nf_tables and its families"), True),
            ("no rate towards containers", self.rate_in, _KERNEL.format("sch_tbf"), False),
            ("no rate from containers", self.rate_out, _KERNEL.format("ifb, sch_ingress, cls_u32, act_mirred and sch_tbf"), False),
            ("no firewalls of tenants", self.firewall, _KERNEL.format("nf_tables' dynamic sets and maps"), False),
            ("what a firewall rejects is dropped without an answer", self.refusal, "use driver routed, or `drop`, which says so", False),
            ("packets for a container that moves are lost while it stands still", self.waiting, _KERNEL.format("tun"), False),
        )
        return [(f"{what}: {why}", remedy, blocks) for what, why, remedy, blocks in known if why is not None]


def of_bridges() -> Outcome:
    """For links on a bridge. Takes some 10 ms and leaves nothing.

    A bridge answers only what it has not yet switched: what a container sends, never what is sent to it.
    """

    def join(host: netlink.Netlink) -> None:
        host.add_bridge(_BRIDGE, mtu=1500)
        host.add_veth(_LINK, _PEER, mtu=1500, master=host.index(_BRIDGE))
        host.close_port(host.index(_LINK))
        host.place_mac(host.index(_LINK), _MAC)

    return _outcome("veth links on a bridge", join, lambda place: guard.base(place, "vtrial"), "bridge", frozenset({"out"}))


def of_macvlans() -> Outcome:
    """For children of an uplink. Takes some 10 ms and leaves nothing. Nothing is answered where their rules are."""
    link = Link(name=_LINK, mac=_MAC, addresses=("198.18.0.2/15", "fd00::2/64"), pool=("198.18.0.0/15", "fd00::/64"), reachable=("198.18.1.0/24",))

    def join(host: netlink.Netlink) -> None:
        host.add_veth(_PEER, _BRIDGE, mtu=1500)
        with netns.opened(netns.own()) as here:
            host.add_macvlan(_LINK, host.index(_PEER), mtu=1500, mac=_MAC, netns=here)

    found = _outcome("macvlan links", join, lambda place: wall.base(place, link), "netdev", frozenset())
    return replace(found, waiting="an uplink leads a MAC to one child of its own alone") if found.links is None else found


def of_routes() -> Outcome:
    """For routed links. Takes some 10 ms and leaves nothing."""

    def join(host: netlink.Netlink) -> None:
        host.add_veth(_LINK, _PEER, mtu=1500)

    return _outcome("veth links with routes", join, lambda place: gate.base(place, "vtrial", "wtrial", gate.Closed("trial1", True)), "inet", frozenset({"in", "out"}))


def _outcome(
    joining: str, join: Callable[[netlink.Netlink], None], base: Callable[[Place], str], family: str, refusing: frozenset[Direction]
) -> Outcome:
    try:
        return netns.inside_new(lambda: _try(joining, join, base, Place(family, "trial"), refusing))
    except HostFailure as error:  # not root: nothing of it works
        return Outcome.of_nothing(joining, error.message)


def _try(
    joining: str, join: Callable[[netlink.Netlink], None], base: Callable[[Place], str], place: Place, refusing: frozenset[Direction]
) -> Outcome:
    with netlink.opened() as host:
        links = _why(lambda: join(host))
        if links is not None:
            return Outcome.of_nothing(joining, links)
        rules = _why(lambda: _run(base(place)))
        refusal = _why(lambda: _run(filters.install(place, "trial", _LINK, _REJECT, refusing)))
        return Outcome(
            joining=joining,
            links=None,
            rules=rules,
            rate_in=_why(lambda: rates.set_in(host, host.index(_LINK), 1_000_000)),
            rate_out=_why(lambda: rates.set_out(host, _LINK, host.index(_LINK), 1_000_000, "")),
            firewall=_why(lambda: _run(filters.install(place, "trial", _LINK, _EVERY_KIND, frozenset()))),
            refusal=refusal or (None if len(refusing) == len(_REJECT) else _SILENT[place.family]),
            waiting=_why(_wait),
            refusing=frozenset() if refusal else refusing,
        )


def _wait() -> None:
    tap = Tap(_ROOM, ethernet=True)
    try:
        tap.admit([Instruction(0x06, 0)])  # return 0: nothing
    finally:
        tap.close()


def _run(commands: str) -> None:
    with nftables.opened() as context:
        context.run(commands)


def _why(work: Callable[[], None]) -> str | None:
    try:
        work()
    except HostFailure as error:
        return error.message
    return None
