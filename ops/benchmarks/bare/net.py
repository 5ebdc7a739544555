"""Networks: ``ip``, ``bridge`` and ``tc``, each once with all its commands (``-batch``), and ``nft -f``."""

from __future__ import annotations

from functools import partial

from bare.step import Step, Subject, tool
from hostler.core.specs import FirewallRule, Link
from hostler.testing.arenas.net import NetArena, link

_RULES = (FirewallRule(action="drop", protocol="tcp", ports=(25, 25)),)
#: Ours has the container's first process, the bare tools its second.
_OURS, _BARE = 0, 1
_TABLE = """table {family} bare {{
 set macs {{ type ifname . ether_addr; }}
 set v4 {{ type ifname . ipv4_addr; }}
 set v6 {{ type ifname . ipv6_addr; }}
 set quiet {{ type ifname; }}
 chain tenant {{ }}
}}
"""


class Bridge(Subject):
    """A port of a bridge: a veth pair with rates on both ends, guarded by elements of sets."""

    family = "bridge"

    def __init__(self, arena: NetArena) -> None:
        self.driver, self._folder = arena.net, arena.folder
        self.ours, self.theirs = arena.pid(_OURS), arena.pid(_BARE)
        self.link: Link = link(_BARE)
        self._feed("table", _TABLE.format(family=self.family))
        tool("nft", "-f", self._folder / "table")
        tool("ip", "link", "add", "bare-br", "type", "bridge")
        tool("ip", "link", "set", "bare-br", "up")
        inside = [f"addr add {address} dev eth0 nodad" if ":" in address else f"addr add {address} dev eth0" for address in self.addresses()]
        routes = [f"route add default via {gateway} dev eth0{self.onlink}" for gateway in self.link.gateways]
        self._feed("inner", "\n".join([*inside, "link set eth0 up", "link set lo up", *routes, ""]))
        self._feed("outer", "\n".join([
            f"link add bare0 type veth peer name eth0 address {self.link.mac} netns {self.theirs}",
            *self.joined(), "link add bares0 type ifb", "link set bares0 up", "",
        ]))  # fmt: skip
        self._feed("led", "\n".join([*self.led(), ""]))
        self._feed("unled", "".join(f"neigh delete proxy {address.partition('/')[0]} dev up0\n" for address in self.addresses()))
        for name, rate in (("rates", "50mbit"), ("slower", "10mbit")):
            first = "add" if name == "rates" else "change"
            shaped = [f"qdisc {first} dev {device} root tbf rate {rate} burst 125kb latency 50ms" for device in ("bare0", "bares0")]
            caught = ["qdisc add dev bare0 ingress", "filter add dev bare0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev bares0"]
            self._feed(name, "\n".join([*shaped, *(caught if first == "add" else ()), ""]))
        self._elements()

    def _feed(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def _elements(self) -> None:
        v4, v6 = (address.partition("/")[0] for address in self.link.addresses)
        found = {"macs": self.link.mac, "v4": v4, "v6": v6}
        lines = [f'element {self.family} bare {name} {{ "bare0" . {value} }}' for name, value in found.items()]
        for verb in ("add", "delete"):
            self._feed(f"nft-{verb}", "".join(f"{verb} {line}\n" for line in lines))
            self._feed(f"nft-quiet-{verb}", f'{verb} element {self.family} bare quiet {{ "bare0" }}\n')
        self._feed("nft-firewall", f"flush chain {self.family} bare tenant\nadd rule {self.family} bare tenant tcp dport 25 drop\n")

    # --- what differs

    onlink = ""

    def addresses(self) -> tuple[str, ...]:
        """Inside, with prefix lengths."""
        return self.link.addresses

    def joined(self) -> list[str]:
        """Commands of ip: the outer end is up, and reached."""
        return ["link set bare0 master bare-br up"]

    def led(self) -> list[str]:
        """Commands of bridge."""
        return ["link set dev bare0 learning off flood off mcast_flood off", f"fdb add {self.link.mac} dev bare0 master static"]

    def _lead(self) -> None:
        tool("bridge", "-batch", self._folder / "led")

    # --- the work

    def attach(self) -> None:
        """All of it."""
        tool("nft", "-f", self._folder / "nft-add")
        tool("ip", "-batch", self._folder / "outer")
        tool("tc", "-batch", self._folder / "rates")
        self._lead()
        tool("nsenter", f"--net=/proc/{self.theirs}/ns/net", "ip", "-batch", self._folder / "inner")

    def detach(self) -> None:
        """And away."""
        tool("ip", "link", "delete", "bare0")
        tool("ip", "link", "delete", "bares0")
        tool("nft", "-f", self._folder / "nft-delete")

    def steps(self, number: int) -> list[Step]:
        driver, name, can = self.driver, "c00", self.driver.capabilities

        def nft(file: str) -> partial[None]:
            return partial(tool, "nft", "-f", self._folder / file)

        steps = [
            Step("attach", partial(driver.attach, name, link(_OURS), self.ours), self.attach, "nft, ip, tc, bridge, nsenter ip: 5 processes"),
            Step("shape", partial(driver.shape, name, 10_000_000, 10_000_000), partial(tool, "tc", "-batch", self._folder / "slower"), "tc"),
            Step("counters", partial(driver.counters, name), partial(tool, "ip", "-s", "-j", "link", "show", "dev", "bare0"), "ip -s"),
        ]
        if can.firewall:
            steps.append(Step("set_firewall", partial(driver.set_firewall, name, _RULES), nft("nft-firewall"), "nft"))
        if can.hold:
            steps.append(Step("hold", partial(driver.hold, name), nft("nft-quiet-add"), "nft"))
            steps.append(Step("release", partial(driver.release, name), nft("nft-quiet-delete"), "nft; ours announces the addresses too"))
        return [*steps, Step("detach", partial(driver.detach, name), self.detach, "ip twice, nft")]


class Routed(Bridge):
    """No bridge: routes to each address, answered for on the uplink."""

    family, onlink = "inet", " onlink"

    def addresses(self) -> tuple[str, ...]:
        return tuple(address.partition("/")[0] + ("/128" if ":" in address else "/32") for address in self.link.addresses)

    def joined(self) -> list[str]:
        return ["link set bare0 up"]

    def led(self) -> list[str]:
        plain = [address.partition("/")[0] for address in self.addresses()]
        return [line for one in plain for line in (f"route add {one} dev bare0", f"neigh add proxy {one} dev up0")]

    def _lead(self) -> None:
        tool("ip", "-batch", self._folder / "led")

    def detach(self) -> None:
        super().detach()
        tool("ip", "-batch", self._folder / "unled")


KINDS: dict[str, type[Bridge]] = {"bridge": Bridge, "routed": Routed}

