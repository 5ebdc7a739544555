"""Servers in one process, one or two: drivers as installed, journal, runner, watch and wire; the control side is the test."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hostler.contracts.driver import Host
from hostler.core.limits import Limits
from hostler.core.messages import Batch, ContainerEvent, Direction, Report, StepOrder
from hostler.core.names import new_id
from hostler.core.specs import (
    ContainerSpec,
    DriverNames,
    ExecResult,
    ExecSpec,
    IdRange,
    ImageSpec,
    Link,
    Process,
)
from hostler.core.units import MIB
from hostler.host import guest, lab, netns
from hostler.node import drivers, watch
from hostler.node.archives import Archives
from hostler.node.journal import Journal
from hostler.node.runner import Runner
from hostler.node.verbs import Server
from hostler.node.watch import Watch
from hostler.node.wire.wire import Wire
from hostler.operations.steps import Step
from hostler.workers.node_side import all_verbs

#: Keeps a container up, and obeys its stop signal.
IDLE = ("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 1 & wait $!; done")


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for a condition, at most so many seconds. Emulated processors are slow."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@dataclass
class Node:
    """A server, and what was heard of it."""

    server: Server
    runner: Runner
    names: DriverNames
    image: ImageSpec
    netns: Path
    name: str = "alpha"
    events: list[ContainerEvent] = field(default_factory=list)
    _operations: int = 0

    @property
    def host(self) -> Host:
        """As its drivers see it."""
        return self.server.host

    def spec(self, *args: str, number: int = 2, limits: Limits | None = None) -> ContainerSpec:
        """A container with an address of its own."""
        link = Link(
            mac=f"02:00:c6:12:01:{number:02x}",
            addresses=(f"198.18.1.{number}/15", f"fd00:686f:7374::1:{number:x}/48"),
            gateways=("198.18.0.1", "fd00:686f:7374::1"),
            pool=("198.18.0.0/15", "fd00:686f:7374::/48"),
            reachable=("198.18.1.0/24", "fd00:686f:7374::1:0/112"),
        )
        return ContainerSpec(
            id=new_id(), name=f"web{number}", account="acc0", ids=IdRange(base=4_000_000 + number * 65_536), image=self.image,
            process=Process(args=args or IDLE), links=(link,), drivers=self.names,
            limits=limits or Limits(memory=64 * MIB, pids=64, cpu=0.5, disk=32 * MIB),
        )  # fmt: skip

    def run(self, spec: ContainerSpec, steps: list[Step], *, undo: bool = False) -> Report:
        """Run steps as one operation; each must succeed."""
        report = self.tried(spec, steps, undo=undo)
        wrong = [f"{steps[one.index].verb}: {one.error.message} {one.error.traceback or ''}" for one in report.outcomes if one.error]
        assert not wrong and report.refused is None, (wrong, report.refused)
        assert len(report.outcomes) == len(steps)
        return report

    def tried(self, spec: ContainerSpec, steps: list[Step], *, undo: bool = False) -> Report:
        """Run steps as one operation, to the first that fails."""
        self._operations += 1
        verbs = [(step.undo, step.undo_payload) if undo else (step.verb, step.payload) for step in steps]
        orders = [StepOrder(index=number, name=str(verb), verb=str(verb), payload=payload or {}) for number, (verb, payload) in enumerate(verbs)]
        batch = Batch(operation=f"op{self._operations}", target=spec.id, node=self.name, fence=self._operations, spec=spec, steps=orders)
        with netns.entered(self.netns):
            return self.runner.run(batch.model_copy(update={"direction": Direction.UNDO if undo else Direction.FORWARD}))

    def sh(self, spec: ContainerSpec, script: str) -> ExecResult:
        """A shell script inside, by the node's own verb."""
        command = ExecSpec(args=("sh", "-c", script), timeout=60)
        payload = {"container": spec.id, "ns": self.names.ns, "command": command.model_dump(mode="json")}
        report = self.run(spec, [Step(name="exec", node="alpha", verb="sandbox.exec", payload=payload)])
        return ExecResult.model_validate(report.outcomes[0].result)

    def owned(self, spec: ContainerSpec) -> list[str]:
        """All that any driver says to have of a container."""
        with netns.entered(self.netns):
            return [f"{driver.group}:{driver.name} {item.name}" for driver in self.server.drivers.all() for item in driver.inventory() if item.owner == spec.id]


@contextlib.contextmanager
def _served(archive: Path, where: Path) -> Iterator[str]:
    """The panel's part: an archive over HTTP, on the server's own loopback."""
    serve = partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with netns.entered(where):
        panel = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    thread = threading.Thread(target=panel.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{panel.server_port}/{archive.name}"
    finally:
        panel.shutdown()
        thread.join(10)
        panel.server_close()


@contextlib.contextmanager
def _watching(host: Host, events: list[ContainerEvent]) -> Iterator[None]:
    seer = Watch(host, events.append)
    thread = threading.Thread(target=seer.run)
    thread.start()
    try:
        eventually(lambda: guest.watch_socket(host).exists())
        yield
    finally:
        seer.stop()
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def booted(folder: Path, libexec: Path, archive: Path, names: DriverNames) -> Iterator[Node]:
    """A server from boot to the end, when nothing of it is left."""
    with _installed() as installation, _running(installation, "alpha", 11, folder, libexec, archive, names) as node:
        yield node


@contextlib.contextmanager
def booted_pair(folder: Path, libexec: Path, archive: Path, names: DriverNames) -> Iterator[tuple[Node, Node]]:
    """Two servers of one installation, joined by a switch, with a wire each."""
    for name in ("alpha", "beta"):
        (folder / name).mkdir()
    with (
        _installed() as installation,
        _running(installation, "alpha", 11, folder / "alpha", libexec, archive, names) as one,
        _running(installation, "beta", 12, folder / "beta", libexec, archive, names) as other,
    ):
        yield one, other


@contextlib.contextmanager
def _installed() -> Iterator[str]:
    """The network of an installation's servers, in which this machine has the gateways."""
    installation = "v" + new_id(6)
    try:
        lab.connect_machine(installation, "198.18.0.1/15", "fd00:686f:7374::1/48")
        yield installation
    finally:
        lab.remove_all(installation)


@contextlib.contextmanager
def _running(installation: str, name: str, number: int, folder: Path, libexec: Path, archive: Path, names: DriverNames) -> Iterator[Node]:
    where = lab.add_server(installation, name, f"198.18.0.{number}/15", f"fd00:686f:7374::{number:x}/48")
    small: dict[str, Any] = {"reserve": 8 * MIB}
    settings: dict[str, dict[str, Any]] = {
        "net:bridge": {"uplink": lab.UPLINK},
        "net:routed": {"uplink": lab.UPLINK},
        "storage:btrfs": small | {"pool": str(folder / "btrfs"), "file": str(folder / "pool.btrfs"), "size": "512M"},
        "storage:overlay": small,
        "storage:loop": small,
    }
    host = Host(installation=installation, node=name, state_dir=folder / "state", libexec=libexec, settings=settings)
    host.state_dir.mkdir(mode=0o700)
    events: list[ContainerEvent] = []
    with contextlib.ExitStack() as stack:
        journal = Journal(folder / "journal.sqlite3", "test")
        stack.callback(journal.close)
        with netns.entered(where):
            loaded = drivers.load(host, setup=True)
            wire = Wire(host.state_dir / "wire", name, f"198.18.0.{number}:0")
        stack.callback(wire.close)
        archives = Archives(folder / "scratch", loaded.images)
        server = Server(host, loaded, archives, nudge=lambda container: watch.nudge(host, container), wire=wire, journal=journal)
        runner = Runner(server, all_verbs(), journal, lambda report: None)
        stack.callback(runner.close)
        stack.enter_context(_watching(host, events))
        url = stack.enter_context(_served(archive, where))
        digest = "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
        image = ImageSpec(digest=digest, driver="rootfs", size=archive.stat().st_size, url=url)
        node = Node(server, runner, names, image, where, name, events)
        stack.callback(_clear, node)
        yield node


def _clear(node: Node) -> None:
    """Whatever a failed test left, then what the drivers share."""
    loaded = node.server.drivers
    with netns.entered(node.netns):
        for group, verb in (("ns", "forget"), ("net", "detach"), ("limits", "remove"), ("storage", "delete")):
            for driver in loaded.loaded[group].values():
                for item in driver.inventory():
                    if item.owner and item.kind != "image":
                        getattr(driver, verb)(item.owner)
        for storage in loaded.loaded["storage"].values():
            for item in storage.inventory():
                if item.owner and item.kind == "image":
                    node.server.drivers.storage(storage.name).remove_image(item.owner)
        for driver in loaded.all():
            driver.teardown()
