"""A platform without root: the real control side and the real broker, and a server that says "done" to every step.

What a server would do to the kernel is left out; every message, row and answer is what a real one would cause.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hostler.broker import Broker, celery_app, node_queue
from hostler.core.errors import ErrorReport, HostlerError
from hostler.core.messages import (
    Batch,
    Capacity,
    DriverFact,
    Hello,
    NodeFacts,
    Report,
    StepOrder,
    StepOutcome,
    WireFact,
    now,
)
from hostler.core.specs import ContainerSpec
from hostler.settings import ControlSettings
from hostler.workers.control_side import ControlSide

#: Said to the readers of the queues, so that they need not be waited for.
_END = "tests.end"
DRIVERS = [("ns", "runc"), ("net", "bridge"), ("storage", "btrfs"), ("limits", "cgroup1"), ("images", "rootfs")]

#: What is told of steps about memory.
MEMORY: dict[str, dict[str, Any]] = {
    "checkpoint.create": {
        "bytes": 30 << 20, "stored": 12 << 20, "pages": 7680, "snapshot": "s1", "frozen_ms": 45.5, "ms": 150.0, "writer": "criu 4.2", "memory": 40 << 20,
    },
    "checkpoint.export": {"digest": "sha256:" + hashlib.sha256(b"exported").hexdigest(), "size": 8, "encrypted": False},
    "checkpoint.import": {"pid": 4713, "started_at": 101, "ms": 99.0, "process": {}},
    "checkpoint.restore": {"pid": 4711, "started_at": 99, "ms": 88.0},
    "move.out": {
        "method": "post_copy", "why": "memory can follow", "frozen_ms": 83.0, "bytes": 52 << 20, "phases": {"volume": 300.0, "dump": 21.0}, "rounds": [],
    },
    "move.in": {"pid": 4712, "started_at": 100},
}  # fmt: skip


class Server:
    """A server of that name. ``fail``: step's name → the error it ends with. ``lines``: what its containers have written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fail: dict[str, HostlerError] = {}
        self.hold = threading.Event()
        """While it is not set, batches wait."""
        self.hold.set()
        self.results: dict[str, dict[str, Any]] = {}
        """Instead of what all servers tell, by verb."""
        self.lines: list[str] = []
        self.batches: list[Batch] = []
        self.obstacles: list[dict[str, Any]] = []
        self.mismatches: list[dict[str, Any]] = []
        self.methods = ["post_copy", "stop_copy"]
        self.memory = 40 << 20

    def hello(self) -> Hello:
        """Its first words."""
        facts = NodeFacts(
            kernel="6.18.0",
            architecture="x86_64",
            capacity=Capacity(cpus=4, memory=16 << 30, disk=100 << 30),
            drivers=[DriverFact(group=group, name=name, usable=True, capabilities=["send_delta"] if group == "storage" else []) for group, name in DRIVERS],
            wire=WireFact(address=f"{self.name}:8470", fingerprint=hashlib.sha256(self.name.encode()).hexdigest()),
        )
        return Hello(node=self.name, instance="first", facts=facts)

    def run(self, batch: Batch) -> Report:
        """Run a batch."""
        self.hold.wait(20)
        self.batches.append(batch)
        outcomes: list[StepOutcome] = []
        for order in batch.steps:
            error = self.fail.get(order.name)
            outcomes.append(StepOutcome(index=order.index, result=None if error else self._result(order), error=ErrorReport.of(error) if error else None, ms=1.5))
            if error:
                break
        return Report(operation=batch.operation, node=self.name, fence=batch.fence, direction=batch.direction, outcomes=outcomes, final=True)

    def _result(self, order: StepOrder) -> dict[str, Any]:
        if order.verb == "image.import":
            image = order.payload["image"]
            return {"driver": "rootfs", "digest": image["digest"], "size": image["size"], "unpacked_size": 4096, "config": {}}
        if order.verb == "image.build":
            digest = "sha256:" + hashlib.sha256(b"built").hexdigest()
            return {"driver": "rootfs", "digest": digest, "size": 5, "unpacked_size": 4096, "config": {"cmd": ["sh"]}}
        if order.verb == "sandbox.exec":
            command = order.payload["command"]
            return {"exit_code": len(command["args"]) - 1, "stdout": command["stdin"].upper(), "stderr": " ".join(command["args"]), "seconds": 0.01}
        return self.results.get(order.verb) or MEMORY.get(order.verb, {})

    def answer(self, question: str, args: dict[str, Any]) -> dict[str, Any]:
        """Answer a question."""
        if question in ("checkpoint.examine", "move.fit"):
            assert ContainerSpec.model_validate(args["spec"]).name, "a whole spec is asked about"
            return {"obstacles": self.obstacles, "memory": self.memory} if question == "checkpoint.examine" else {"mismatches": self.mismatches, "methods": self.methods}
        if question in ("checkpoint.inspect", "checkpoint.verify"):
            return {"id": args["checkpoint"], "parts": 3}
        if question == "container.usage":
            return {"running": True, "memory": 1 << 20, "pids": 3, "disk": 5 << 20}
        begin = int(args["cursor"] or 0)
        if args["cursor"] is None and args["tail"] is not None:
            begin = max(len(self.lines) - args["tail"], 0)
        shown = [{"at": now().isoformat(), "stream": "stdout", "text": text} for text in self.lines[begin:]]
        return {"lines": shown, "cursor": str(begin + len(shown))}


class Fleet:
    """The control side and servers, each reading its queue in a thread. ``control`` false: another fleet's is at work."""

    def __init__(self, settings: ControlSettings, servers: list[Server], *, control: bool = True) -> None:
        self.settings = settings
        self.servers = {server.name: server for server in servers}
        self._broker = Broker(settings)
        self._control = ControlSide(settings)
        self._app = celery_app("tests", settings)
        readers: list[tuple[str, Callable[[str, list[Any]], None]]] = [("control", self._controlled)] if control else []
        readers += [(node_queue(server.name), self._server(server)) for server in servers]
        self._queues = [queue for queue, _ in readers]
        self._threads = [threading.Thread(target=self._read, args=reader, daemon=True) for reader in readers]

    @contextmanager
    def at_work(self) -> Iterator[Fleet]:
        """Read the queues for the block's time."""
        for server in self.servers.values():
            self._control.hello(server.hello())
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            for server in self.servers.values():
                server.hold.set()
            for queue in self._queues:
                self._app.send_task(_END, queue=queue)
            for thread in self._threads:
                thread.join(20)
            self._control.close()
            self._broker.close()
            self._app.close()

    def greet(self, server: str) -> None:
        """A server's worker has started again."""
        self._control.hello(self.servers[server].hello())

    def _read(self, queue: str, act: Callable[[str, list[Any]], None]) -> None:
        with self._app.connection_for_read() as connection:
            messages = connection.SimpleQueue(queue)
            while True:
                message = messages.get()
                message.ack()
                if message.headers["task"] == _END:
                    break
                act(message.headers["task"], message.payload[0])
            messages.close()

    def _controlled(self, task: str, args: list[Any]) -> None:
        if task == "control.advance":
            self._control.engine.advance(args[0])
        elif task == "control.report":
            self._control.engine.report(Report.model_validate(args[0]))
        else:
            raise AssertionError(task)

    def _server(self, server: Server) -> Callable[[str, list[Any]], None]:
        def act(task: str, args: list[Any]) -> None:
            if task == "node.batch":
                self._broker.report(server.run(Batch.model_validate(args[0])))
            elif task == "node.ask":
                self._broker.answer(args[0], server.answer(args[1], args[2]), None)
            else:
                raise AssertionError(task)

        return act
