"""Environment of net drivers: a server's network namespace on a switch, and processes in network namespaces of their own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import cast

from hostler.contracts.net import Net
from hostler.core.errors import HostlerError, NotFound
from hostler.core.specs import FirewallRule, Link
from hostler.host import lab, netlink, netns
from hostler.testing.arenas.arena import Arena, Scene
from hostler.testing.subjects import Recipe
from hostler.testing.zygote import Call

_NOT_THERE = "n0where"
_RULES = (FirewallRule(action="drop", protocol="tcp", ports=(25, 25)),)


def link(number: int, **more: object) -> Link:
    """A link with an address of its own."""
    return Link.model_validate(
        {
            "mac": f"02:00:c6:12:01:{number + 2:02x}",
            "addresses": (f"198.18.1.{number + 2}/15", f"fd00:686f:7374::1:{number + 2:x}/48"),
            "gateways": ("198.18.0.1", "fd00:686f:7374::1"),
            "pool": ("198.18.0.0/15", "fd00:686f:7374::/48"),
            "reachable": ("198.18.1.0/24", "fd00:686f:7374::1:0/112"),
            "rate_in": 50_000_000,
            "rate_out": 50_000_000,
        }
        | more
    )


class NetArena(Arena):
    """See the module."""

    one_thing = False
    small_records = True

    def __init__(self, spec: str, folder: Path, libexec: Path, settings: str | None) -> None:
        super().__init__(spec, folder, libexec, settings)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def net(self) -> Net:
        """The driver by its contract."""
        return cast(Net, self.driver)

    def prepare(self) -> None:
        if not self.fake:
            server = lab.add_server(self.recipe.host.installation, "alpha", "198.18.0.11/15", "fd00:686f:7374::b/48")
            self.recipe = Recipe(self.spec, self.recipe.host, server)
            del self.__dict__["driver"]

    def link(self, number: int, **more: object) -> Link:
        """A link with an address of its own, in a network that the driver has."""
        can = self.net.capabilities
        return link(number, **({"network": 7} if can.tenant_networks and not can.shared_l2 else {}) | more)

    def pid(self, number: int) -> int:
        """A process in user and network namespaces of its own."""
        if self.fake:
            return (1 << 23) + number
        if number not in self._processes:
            process = self._processes[number] = subprocess.Popen(["unshare", "--user", "--map-root-user", "--net", "sleep", "600"])
            deadline = time.monotonic() + 10
            while Path(f"/proc/{process.pid}/comm").read_text().strip() != "sleep":
                assert time.monotonic() < deadline, "unshare did not start"
                time.sleep(0.005)
        return self._processes[number].pid

    def scenes(self, number: int = 0) -> list[Scene]:
        container = f"c0{number}"
        make: Call = ("attach", (container, self.link(number), self.pid(number)))
        drop: Call = ("detach", (container,))
        scenes = [
            Scene([], make, [drop], owner=container),
            Scene([make], ("shape", (container, 10_000_000, None)), [drop], owner=container),
            Scene([make], drop),
        ]
        can = self.net.capabilities
        if can.firewall:
            scenes.append(Scene([make], ("set_firewall", (container, _RULES)), [drop], owner=container))
        if can.hold:
            hold: Call = ("hold", (container,))
            still: Call = ("attach", (container, self.link(number), self.pid(number), True))
            release: Call = ("release", (container,))
            scenes += [Scene([make], hold, [drop], owner=container), Scene([make, hold], release, [drop], owner=container)]
            scenes += [Scene([], still, [drop], owner=container), Scene([still], release, [drop], owner=container)]
        if can.expect:
            expect: Call = ("expect", (container, self.link(number)))
            scenes += [Scene([], expect, [drop], owner=container), Scene([expect], still, [drop], owner=container)]
            bring: Call = ("bring", (container, {self.link(number).name: [b"", b"x", b"x" * 70_000]}))
            scenes += [Scene([expect], bring, [drop], owner=container), Scene([expect, still], release, [drop], owner=container)]
            if can.hold:
                scenes.append(Scene([make, hold], ("kept", (container, 1000)), [drop], owner=container))
        return scenes

    def absent(self) -> list[tuple[Call, type[HostlerError] | None]]:
        cases: list[tuple[Call, type[HostlerError] | None]] = [
            (("detach", (_NOT_THERE,)), None),
            (("shape", (_NOT_THERE, None, None)), NotFound),
            (("counters", (_NOT_THERE,)), NotFound),
        ]
        can = self.net.capabilities
        if can.firewall:
            cases.append((("set_firewall", (_NOT_THERE, _RULES)), NotFound))
        if can.hold:
            cases += [((verb, (_NOT_THERE,)), NotFound) for verb in ("hold", "release")]
        return cases

    def refusals(self) -> dict[str, list[Call]]:
        pid = self.pid(0)
        return {
            "firewall": [("set_firewall", ("c0r", _RULES)), ("attach", ("c0r", self.link(0, firewall=_RULES), pid))],
            "hold": [("hold", ("c0r",)), ("release", ("c0r",)), ("attach", ("c0r", self.link(0), pid, True))],
            "expect": [("expect", ("c0r", self.link(0))), ("kept", ("c0r", 1000)), ("bring", ("c0r", {}))],
            "tenant_networks": [("attach", ("c0r", self.link(0, network=7), pid))],
        }

    def hostile(self, name: str) -> list[Call]:
        expected: list[Call] = [("expect", (name, self.link(0)))] if self.net.capabilities.expect else []
        return [*expected, ("attach", (name, self.link(0), self.pid(0))), ("shape", (name, None, None)), ("counters", (name,)), ("detach", (name,))]

    def traces(self) -> set[str]:
        """Files, and interfaces of the server."""
        with self.inside():
            seen = set() if self.fake else {f"link {name}" for name in netlink.names("")}
        return super().traces() | seen

    def inner_links(self, number: int) -> list[str]:
        """Interfaces inside a process's namespace."""
        with netns.entered(netns.of_process(self.pid(number))):
            return netlink.names("")

    def clear(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        if self.recipe.netns is not None:
            lab.remove_all(self.recipe.host.installation)

    def clear_process(self, number: int) -> None:
        """End a container's process, and its namespace with it."""
        process = self._processes.pop(number, None)
        if process is not None:
            process.kill()
            process.wait()
