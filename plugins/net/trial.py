"""What the kernel offers the bridge driver, found by doing it in an empty network namespace that ends with the trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hostler.core.errors import HostFailure
from hostler.host import netlink, netns, nftables
from hostler_plugins.net import guard, rates

_TABLE, _BRIDGE, _LINK, _PEER, _MAC = "trial", "trial0", "vtrial0", "trial1", "02:00:00:00:00:01"


@dataclass(frozen=True)
class Outcome:
    """For each ability None, or why it is missing."""

    links: str | None
    rules: str | None
    rate_in: str | None
    rate_out: str | None

    def offers(self) -> list[str]:
        """What works, in words."""
        words = {
            "links": "veth links on a bridge",
            "rules": "anti-spoofing and isolation by nftables",
            "rate_in": "rate towards containers (tbf)",
            "rate_out": "rate from containers (ifb, clsact, u32, mirred, tbf)",
        }
        return [text for ability, text in words.items() if getattr(self, ability) is None]

    def lacks(self) -> list[tuple[str, str, bool]]:
        """What does not, the remedy, and whether the driver cannot work without."""
        kernel = "use a kernel with {}, or load the modules"
        known = (
            ("no links on a bridge", self.links, kernel.format("bridge and veth"), True),
            ("no anti-spoofing and isolation", self.rules, "install libnftables1; " + kernel.format("nf_tables and its bridge family"), True),
            ("no rate towards containers", self.rate_in, kernel.format("sch_tbf"), False),
            ("no rate from containers", self.rate_out, kernel.format("ifb, sch_ingress, cls_u32, act_mirred and sch_tbf"), False),
        )
        return [(f"{what}: {why}", remedy, blocks) for what, why, remedy, blocks in known if why is not None]


def hold() -> Outcome:
    """Try everything. Takes some 10 ms and leaves nothing."""
    try:
        return netns.inside_new(_try)
    except HostFailure as error:  # not root: nothing of it works
        return Outcome(error.message, error.message, error.message, error.message)


def _try() -> Outcome:
    with netlink.opened() as host:

        def link() -> None:
            host.add_bridge(_BRIDGE, mtu=1500)
            host.add_veth(_LINK, _PEER, mtu=1500, master=host.index(_BRIDGE))
            host.close_port(host.index(_LINK), _MAC)

        def rules() -> None:
            with nftables.opened() as context:
                context.run(guard.base(_TABLE, "vtrial"))

        links = _why(link)
        if links is not None:
            return Outcome(links, links, links, links)
        return Outcome(
            links=None,
            rules=_why(rules),
            rate_in=_why(lambda: rates.set_in(host, host.index(_LINK), 1_000_000)),
            rate_out=_why(lambda: rates.set_out(host, _LINK, host.index(_LINK), 1_000_000, "")),
        )


def _why(work: Callable[[], None]) -> str | None:
    try:
        work()
    except HostFailure as error:
        return error.message
    return None
