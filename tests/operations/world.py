"""An engine on a real store, with servers that are played by the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from hostler.core.errors import ErrorReport
from hostler.core.messages import Batch, Capacity, DriverFact, Hello, NodeFacts, Report, StepOutcome, now
from hostler.operations import requests
from hostler.operations.engine import Engine
from hostler.operations.kind import Provider
from hostler.operations.kinds import all_kinds
from hostler.operations.requests import Asker
from hostler.operations.tickets import Tickets
from hostler.placement.choose import Overcommit
from hostler.store import nodes
from hostler.store.addresses import Pool
from hostler.store.bootstrap import bootstrap
from hostler.store.engine import Store
from hostler.store.models import Account, Container, Image, Operation

FACTS = NodeFacts(
    kernel="6.18",
    architecture="x86_64",
    capacity=Capacity(cpus=2, memory=4 << 30, disk=100 << 30),
    drivers=[
        DriverFact(group=group, name=name, usable=True, capabilities=["send", "send_delta"] if group == "storage" else [])
        for group, name in (("ns", "runc"), ("net", "bridge"), ("storage", "btrfs"), ("limits", "cgroup1"))
    ],
)


@dataclass
class World:
    """A store, an engine, and what the engine sent."""

    store: Store
    engine: Engine
    sent: list[Batch] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def account(self) -> Account:
        """The provider's account."""
        with self.store.read() as session:
            return session.scalars(select(Account).where(Account.provider.is_(True))).one()

    def ask(self, request: Callable[..., Operation], *args: Any, **more: Any) -> str:
        """Make a request as the panel does, and let the engine look at it. The operation's id."""
        with self.store.write() as session:
            operation = request(session, Asker(self.account(), "test"), *args, **more).id
        self.engine.advance(operation)
        return operation

    def create(self, name: str, plan: str = "small") -> str:
        """Ask for a container."""
        return self.ask(requests.create, name, "busybox", plan, {})

    def operation(self, operation: str) -> Operation:
        """Its row as it is now."""
        with self.store.read() as session:
            return session.get_one(Operation, operation)

    def container(self, name: str) -> Container | None:
        """Its row as it is now."""
        with self.store.read() as session:
            return session.scalar(select(Container).where(Container.name == name))

    def answer(
        self, batch: Batch, *, fail: str | None = None, code: str = "program_failed", results: dict[str, dict[str, Any]] | None = None
    ) -> None:
        """Play the server: every step succeeds, up to the one named ``fail``. ``results`` by step; the others say nothing."""
        report = Report(operation=batch.operation, node=batch.node, fence=batch.fence, direction=batch.direction, final=True)
        for order in batch.steps:
            error = ErrorReport(code=code, message=f"{order.name} broke", hint="mend it") if order.name == fail else None
            report.outcomes.append(StepOutcome(index=order.index, result=(results or {}).get(order.name, {}) if error is None else None, error=error, ms=1))
            if error is not None and batch.direction == "forward":
                break
        self.engine.report(report)

    def answer_all(self, *, results: dict[str, dict[str, Any]] | None = None) -> None:
        """Play the server until nothing more is sent."""
        while self.sent:
            self.answer(self.sent.pop(0), results=results)

    def lapse(self, operation: str) -> None:
        """Let the operation's lease run out, and the tick look."""
        with self.store.write() as session:
            session.execute(update(Operation).where(Operation.id == operation).values(lease_until=now() - timedelta(seconds=1)))
        self.engine.tick()


def make_world(store: Store, folder: Path) -> World:
    """Two servers online, the plans, and a ready image."""
    bootstrap(store, "provider", ("alpha", "beta"))
    with store.write() as session:
        for name in ("alpha", "beta"):
            nodes.greet(session, Hello(node=name, instance=f"i{name}", facts=FACTS))
        session.add(Image(name="busybox", state="ready", digest="sha256:" + "a" * 64, driver="rootfs", size=100))
    provider = Provider(
        pool=Pool.of("198.18.0.0/15", "fd00:686f:7374::/48", "198.18.0.1", ""),
        overcommit=Overcommit(),
        tickets=Tickets(b"key", "http://panel"),
        blob_dir=folder,
        image_limit=1 << 20,
    )
    sent: list[Batch] = []
    changed: list[str] = []
    engine = Engine(store, all_kinds(provider), sent.append, lambda operation: engine.advance(operation), changed.append)
    return World(store, engine, sent, changed)
