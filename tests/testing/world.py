"""The whole platform without root: panel, control side, broker and store are real, and servers run every verb on fake drivers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hostler.broker import Broker
from hostler.client.client import Client
from hostler.contracts.driver import Item
from hostler.core.api import OperationOut
from hostler.core.errors import ErrorReport, HostlerError
from hostler.core.messages import Batch, Hello
from hostler.core.specs import ImageConfig
from hostler.node.drivers import load_classes
from hostler.node.facts import facts
from hostler.node.questions import answer
from hostler.settings import ControlSettings, NodeSettings
from hostler.testing.fakes import FAKES
from hostler.testing.fakes.images import archive
from hostler.testing.faults import Faults
from hostler.workers.node_side import NodeSide
from tests.web.fleet import Fleet, Server

TREE = {"etc": ("d", 0o755, ""), "etc/motd": ("f", 0o644, "aGVsbG8="), "bin": ("d", 0o755, "")}
#: What containers of the tests are made with.
FAKE_DRIVERS = dict.fromkeys(("ns", "net", "storage", "limits"), "fake")


class FakeServer(Server):
    """A real node side, but for its drivers."""

    def __init__(self, name: str, settings: ControlSettings, folder: Path) -> None:
        super().__init__(name)
        own = NodeSettings(
            installation=settings.installation, redis_socket=settings.redis_socket, node=name, node_state=folder / name, libexec=folder,
            panel_url=settings.panel_url, node_wire_listen="127.0.0.1:0", capacity_disk=10 << 30, capacity_memory=8 << 30, capacity_cpus=4,
        )  # fmt: skip
        self.side = NodeSide(own, partial(load_classes, classes=FAKES.values(), setup=True))
        self.faults = Faults(own.node_state)

    def hello(self) -> Hello:
        return Hello(node=self.name, instance=self.side.instance, facts=facts(self.side.settings, self.side.drivers, self.side.wire))

    def inventory(self) -> list[Item]:
        """All that any driver has, images excepted."""
        return [item for driver in self.side.drivers.all() for item in driver.inventory() if item.kind != "image"]

    def act(self, broker: Broker, task: str, args: list[Any]) -> None:
        """A message from the server's queue."""
        if task == "node.batch":
            self.side.runner.run(Batch.model_validate(args[0]))
            return
        try:
            broker.answer(args[0], answer(self.side.server, args[1], args[2]), None)
        except HostlerError as error:
            broker.answer(args[0], None, ErrorReport.of(error))


class FakeFleet(Fleet):
    """Servers that work, on the fleet's queues."""

    def _server(self, server: Server) -> Callable[[str, list[Any]], None]:
        assert isinstance(server, FakeServer)
        return lambda task, args: server.act(self._broker, task, args)


class Platform:
    """What a tenant sees, and the servers behind it. ``server`` is the first."""

    def __init__(self, client: Client, servers: Sequence[FakeServer], fleet: Fleet) -> None:
        self.client = client
        self.fleet = fleet
        self.servers = {server.name: server for server in servers}
        self.server = servers[0]

    def prepare(self) -> None:
        """A plan on fake drivers and an image."""
        self.client.create_plan("small", {"memory": "64M", "disk": "8M", "pids": 32}, drivers=FAKE_DRIVERS)
        content = archive(TREE, ImageConfig(cmd=("serve",)))
        done = self.client.wait(self.client.import_image("tiny", [content], len(content)).id)
        assert done.state == "done", done.error

    def done(self, operation: OperationOut) -> OperationOut:
        """Wait for an operation that must succeed."""
        ended = self.client.wait(operation.id)
        assert ended.state == "done", ended
        return ended

    def failed(self, operation: OperationOut) -> OperationOut:
        """Wait for an operation that must fail, and have undone what it did."""
        ended = self.client.wait(operation.id)
        assert ended.state == "failed", ended
        return ended

    def inside(self, name: str, *args: str) -> str:
        """What a command in a container says."""
        said = self.done(self.client.exec(name, {"args": list(args)}))
        assert said.result["exit_code"] == 0, said
        return str(said.result["stdout"])

    def create(self, name: str) -> OperationOut:
        """Ask for a container."""
        return self.client.create({"name": name, "image": "tiny", "plan": "small"})
