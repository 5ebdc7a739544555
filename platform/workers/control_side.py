"""What the control worker works with: store, engine, broker; and what it does with news from servers."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from hostler.broker import Broker
from hostler.core.lifecycle import State, Wanted
from hostler.core.messages import ContainerEvent, Heartbeat, Hello, now
from hostler.operations import transfers
from hostler.operations.engine import Engine
from hostler.operations.kind import Provider
from hostler.operations.kinds import all_kinds
from hostler.operations.reap import ask_to_reap, leftover
from hostler.operations.tickets import Tickets, load_key
from hostler.operations.unasked import is_busy, platform_operation, stop_if_ended
from hostler.placement.choose import Overcommit
from hostler.settings import ControlSettings
from hostler.store import nodes
from hostler.store.addresses import Pool
from hostler.store.engine import Store
from hostler.store.events import add_event
from hostler.store.models import Container, Event, IdempotencyKey, Node, Operation, Token

log = structlog.get_logger()

KEYS_KEPT = timedelta(days=1)
OPERATIONS_KEPT = timedelta(days=90)


def provider_of(settings: ControlSettings) -> Provider:
    """The installation's pool, ratios and tickets, from settings."""
    return Provider(
        pool=Pool.of(settings.pool_v4, settings.pool_v6, settings.gateway_v4, settings.gateway_v6),
        overcommit=Overcommit(settings.overcommit_cpu, settings.overcommit_memory, settings.overcommit_disk),
        tickets=Tickets(load_key(settings.secret_path), settings.panel_url),
        blob_dir=settings.blob_dir,
        image_limit=settings.image_limit,
        checkpoint_limit=settings.checkpoint_limit,
    )


class ControlSide:
    """One per control worker process."""

    def __init__(self, settings: ControlSettings) -> None:
        self.store = Store(settings.store)
        self.broker = Broker(settings)
        self.provider = provider_of(settings)
        self.engine = Engine(
            self.store, all_kinds(self.provider), self.broker.send, self.broker.look_at, self.broker.announce
        )

    def hello(self, hello: Hello) -> None:
        """A worker started: note its facts, claim again what its forerunner was doing, delete what nobody wants any more,
        and start again what a reboot of the server took."""
        with self.store.write() as session:
            nodes.greet(session, hello)
            mend = [*self._leftovers(session, hello), *self._lost(session, hello)]
        self.engine.node_restarted(hello.node)
        for operation in mend:
            self.engine.advance(operation)

    def _leftovers(self, session: Session, hello: Hello) -> list[str]:
        """Delete operations for containers that nobody wants any more and that could not be undone while the server was away."""
        rows = session.scalars(
            select(Container)
            .join(Node, Container.node_id == Node.id)
            .where(Node.name == hello.node, Container.wanted == Wanted.ABSENT, Container.state == State.ERROR)
        ).all()
        made = [platform_operation(session, "delete", row, "its server is back and nobody wants it any more") for row in rows]
        known = set(session.scalars(select(Container.id).join(Node, Container.node_id == Node.id).where(Node.name == hello.node)))
        for stranger in sorted(set(hello.facts.containers) - known):
            container, left = session.get(Container, stranger), leftover(session, stranger, hello.node)
            if container is not None and is_busy(session, container):
                continue  # that operation decides what stays where
            if left is not None:
                made.append(ask_to_reap(session, left.move, hello.node, f"server {hello.node} is back, and a move has left something there"))
                continue
            add_event(session, "leak", f"server {hello.node} holds container {stranger}, which no row owns", node=hello.node)
            log.warning("leak", node=hello.node, container=stranger)
        session.flush()
        return [operation.id for operation in made]

    def _lost(self, session: Session, hello: Hello) -> list[str]:
        """Restarts of containers that should run there and do not: the server was rebooted, or taken down and up."""
        rows = session.scalars(
            select(Container)
            .join(Node, Container.node_id == Node.id)
            .where(Node.name == hello.node, Container.wanted == Wanted.RUNNING, Container.state == State.RUNNING)
            .where(Container.id.not_in(hello.facts.running))
        ).all()
        reason = f"server {hello.node} came back without it"
        made = [platform_operation(session, "restart", row, reason) for row in rows if not is_busy(session, row)]
        session.flush()
        return [operation.id for operation in made]

    def heartbeat(self, beat: Heartbeat) -> None:
        """A server answered. One whose greeting was lost is asked for it."""
        with self.store.write() as session:
            known = nodes.hear(session, beat)
        if not known:
            self.broker.ask_greeting(beat.node)

    def ping(self, interval: timedelta) -> None:
        """Ping all servers, then mark those that have been silent for too long."""
        with self.store.read() as session:
            names = session.scalars(select(Node.name)).all()
        for name in names:
            self.broker.ping(name, interval)
        with self.store.write() as session:
            for name in nodes.mark_silent(session):
                log.warning("server offline", node=name)

    def container_event(self, event: ContainerEvent) -> None:
        """Write a container's event down. One that ended by itself is taken down in order.

        Events come at least once; an exit is told again until its container was taken down. An end that an operation asked
        for is that operation's to tell.
        """
        with self.store.write() as session:
            container = session.get(Container, event.container, with_for_update=True)
            if container is None or event.details.get("expected"):
                return
            if not _known(session, event):
                add_event(session, event.kind, event.message, container=container, node=event.node, at=event.at, details=event.details)
                session.flush()
            stop = stop_if_ended(session, container) if event.kind == "exited" else None
        if stop is not None:
            self.engine.advance(stop)

    def clean(self) -> None:
        """Expire idempotency keys, tokens and old operations."""
        with self.store.write() as session:
            session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - KEYS_KEPT))
            session.execute(delete(Token).where(Token.expires_at < now() - KEYS_KEPT))
            session.execute(delete(Operation).where(Operation.ended_at < now() - OPERATIONS_KEPT))

    def sweep(self) -> None:
        """Remove exported checkpoints that nobody has downloaded."""
        with self.store.read() as session:
            for operation in transfers.sweep(session, self.provider.transfer_dir):
                log.info("an exported checkpoint was not downloaded in time", operation=operation)

    def close(self) -> None:
        """Close all connections."""
        self.broker.close()
        self.store.close()


def _known(session: Session, event: ContainerEvent) -> bool:
    """Whether the very same happening was written down before."""
    return session.scalar(
        select(Event.id).where(Event.container_id == event.container, Event.kind == event.kind, Event.at == event.at).limit(1)
    ) is not None
