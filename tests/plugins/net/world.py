"""Two servers, a switch, and containers that are nothing but a process in its own user and network namespace."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hostler.contracts.driver import Host
from hostler.contracts.net import Net
from hostler.core.names import new_id
from hostler.core.specs import Link
from hostler.host import lab, netns
from hostler_plugins.net.bridge import Bridge

POOL_V4, POOL_V6 = "198.18.0.0/15", "fd00:686f:7374::/48"
GATEWAY_V4, GATEWAY_V6 = "198.18.0.1", "fd00:686f:7374::1"
#: Seconds after which a packet that may come counts as lost.
PATIENCE = 3.0


def v6_of(v4: ipaddress.IPv4Address) -> ipaddress.IPv6Address:
    """The pool's prefix, then the v4 address."""
    return ipaddress.IPv6Network(POOL_V6)[int(v4)]


def link(block: int, number: int, **more: object) -> Link:
    """A link as the platform gives it: ``block`` is the account's /24."""
    v4 = ipaddress.IPv4Address(f"198.18.{block}.{number}")
    return Link.model_validate(
        {
            "mac": "02:00:" + ":".join(f"{octet:02x}" for octet in v4.packed),
            "addresses": (f"{v4}/15", f"{v6_of(v4)}/48"),
            "gateways": (GATEWAY_V4, GATEWAY_V6),
            "pool": (POOL_V4, POOL_V6),
            "reachable": (f"198.18.{block}.0/24", f"{v6_of(ipaddress.IPv4Address(int(v4) & ~255))}/120"),
        }
        | more
    )


@dataclass
class Container:
    """A sleeping process; ``link`` is what it was attached with."""

    id: str
    process: subprocess.Popen[bytes]
    server: str
    link: Link

    @property
    def netns(self) -> Path:
        """Its network namespace."""
        return netns.of_process(self.process.pid)

    @property
    def v4(self) -> str:
        """Its first IPv4 address."""
        return next(address.split("/")[0] for address in self.link.addresses if "." in address)

    @property
    def v6(self) -> str:
        """Its first IPv6 address."""
        return next(address.split("/")[0] for address in self.link.addresses if ":" in address)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket inside."""
        with netns.entered(self.netns):
            made = socket.socket(family, kind, protocol)
        made.settimeout(PATIENCE)
        return made


@dataclass
class World:
    """The lab network of one test, and what was put into it."""

    tmp_path: Path
    kind: type[Net] = Bridge
    more: dict[str, object] = field(default_factory=dict)
    """Settings of the driver beside its uplink."""
    network: int | None = None
    """The tenants' own network in which :meth:`placed` puts containers."""
    installation: str = field(default_factory=lambda: "t" + new_id(6))
    drivers: dict[str, Net] = field(default_factory=dict)
    containers: list[Container] = field(default_factory=list)

    def add_server(self, name: str, number: int) -> Net:
        """A server with the driver set up."""
        lab.add_server(self.installation, name, f"198.18.0.{number}/15", f"fd00:686f:7374::{number:x}/48")
        with self.on(name):
            self.drivers[name] = self.new_driver(name)
            self.drivers[name].setup()
        return self.drivers[name]

    def new_driver(self, name: str) -> Net:
        """A driver as a worker that has just started has it."""
        settings = {f"net:{self.kind.name}": {"uplink": lab.UPLINK} | self.more}
        return self.kind(Host(self.installation, name, self.tmp_path / name, self.tmp_path, settings=settings))

    @contextlib.contextmanager
    def on(self, server: str) -> Iterator[None]:
        """The calling thread is on a server."""
        with netns.entered(netns.path_of(lab.server_netns(self.installation, server))):
            yield

    def container(self, server: str, wanted: Link, *, attach: bool = True) -> Container:
        """A new container, attached."""
        process = subprocess.Popen(["unshare", "--user", "--map-root-user", "--net", "sleep", "600"])
        made = Container(new_id(), process, server, wanted)
        self.containers.append(made)
        comm = Path(f"/proc/{process.pid}/comm")
        _until(lambda: comm.read_text().strip() == "sleep", "the container to sleep")
        if attach:
            self.attach(made)
        return made

    def placed(self, server: str, block: int, number: int, *, attach: bool = True, **more: object) -> Container:
        """A new container with an ordinary link."""
        return self.container(server, link(block, number, network=self.network, **more), attach=attach)

    def attach(self, container: Container, held: bool = False) -> None:
        """Attach its link."""
        with self.on(container.server):
            self.drivers[container.server].attach(container.id, container.link, container.process.pid, held)

    def detach(self, container: Container) -> None:
        """Detach all it has."""
        with self.on(container.server):
            self.drivers[container.server].detach(container.id)

    def end(self) -> None:
        """Remove everything; the namespaces end with their last process."""
        for container in self.containers:
            container.process.kill()
            container.process.wait()
        lab.remove_all(self.installation)


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.005)


def udp_arrives(sender: Container, receiver: Container, version: int, patience: float = PATIENCE) -> bool:
    """Whether one datagram gets from the one to the other; neighbours are asked first where unknown."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with receiver.socket(family, socket.SOCK_DGRAM) as inbox, sender.socket(family, socket.SOCK_DGRAM) as outbox:
        address = receiver.v4 if version == 4 else receiver.v6
        inbox.bind((address, 0))
        inbox.settimeout(patience)
        outbox.sendto(b"hello", (address, inbox.getsockname()[1]))
        try:
            return inbox.recv(100) == b"hello"
        except TimeoutError:
            return False


def tcp_opens(sender: Container, receiver: Container, version: int, patience: float = PATIENCE) -> str:
    """What becomes of a connection: ``open``, ``refused`` (an answer says no) or ``lost`` (no answer)."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with receiver.socket(family, socket.SOCK_STREAM) as door, sender.socket(family, socket.SOCK_STREAM) as caller:
        address = receiver.v4 if version == 4 else receiver.v6
        door.bind((address, 8080))
        door.listen()
        caller.settimeout(patience)
        try:
            caller.connect((address, 8080))
        except TimeoutError:
            return "lost"
        except ConnectionRefusedError:
            return "refused"
        return "open"
