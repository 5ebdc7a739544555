"""Tables. Times are UTC with zone; ids are random text; JSON columns hold pydantic models' dumps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from hostler.core.messages import now
from hostler.core.names import new_id


class UtcTime(TypeDecorator[datetime]):
    """A point in time. SQLite forgets the zone; this puts UTC back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value


class Base(DeclarativeBase):
    """Declarative base with named constraints, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, datetime: UtcTime, int: BigInteger}


def _id() -> Mapped[str]:
    return mapped_column(String(26), primary_key=True, default=new_id)


class Account(Base):
    """A tenant, or the provider itself."""

    __tablename__ = "accounts"

    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(String(63), unique=True)
    provider: Mapped[bool] = mapped_column(default=False)
    cpu_weight: Mapped[int] = mapped_column(default=100, server_default="100")
    created_at: Mapped[datetime] = mapped_column(default=now)


class Token(Base):
    """A secret that lets its bearer act for an account. Only its SHA-256 is kept: it has 160 random bits."""

    __tablename__ = "tokens"

    id: Mapped[str] = _id()
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(63))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    account: Mapped[Account] = relationship()


class Plan(Base):
    """Limits under a name."""

    __tablename__ = "plans"

    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(String(63), unique=True)
    description: Mapped[str] = mapped_column(String(200), default="")
    limits: Mapped[dict[str, Any]]
    drivers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Image(Base):
    """An archive of a root file system. Without an account it is the provider's, and everybody's to use."""

    __tablename__ = "images"
    __table_args__ = (
        Index("uq_images_public_name", "name", unique=True, sqlite_where=text("account_id IS NULL"), postgresql_where=text("account_id IS NULL")),
        UniqueConstraint("account_id", "name"),
    )

    id: Mapped[str] = _id()
    account_id: Mapped[str | None] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(63))
    state: Mapped[str] = mapped_column(String(16), default="pending")
    digest: Mapped[str] = mapped_column(String(80), default="", index=True)
    driver: Mapped[str] = mapped_column(String(32), default="")
    size: Mapped[int] = mapped_column(default=0)
    unpacked_size: Mapped[int] = mapped_column(default=0)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Node(Base):
    """A server. The ``*_promised`` columns are what its containers' limits add up to."""

    __tablename__ = "nodes"

    id: Mapped[str] = _id()
    name: Mapped[str] = mapped_column(String(63), unique=True)
    state: Mapped[str] = mapped_column(String(16), default="offline")
    instance: Mapped[str] = mapped_column(String(26), default="")
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seen_at: Mapped[datetime | None]
    disk_free: Mapped[int] = mapped_column(default=0)
    load: Mapped[float] = mapped_column(Float, default=0.0)
    cpus: Mapped[float] = mapped_column(Float, default=0.0)
    memory: Mapped[int] = mapped_column(default=0)
    disk: Mapped[int] = mapped_column(default=0)
    cpus_promised: Mapped[float] = mapped_column(Float, default=0.0)
    memory_promised: Mapped[int] = mapped_column(default=0)
    disk_promised: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Container(Base):
    """A container. What is wanted and what was last seen are two columns.

    ``fence`` is the number of the last claim of any operation on it. ``id_slot`` picks its range of host ids,
    one of its own on its server. ``checkpoint_id``: where its memory is while it is suspended; its server then promises it disk alone.
    """

    __tablename__ = "containers"
    __table_args__ = (UniqueConstraint("account_id", "name"), UniqueConstraint("node_id", "id_slot"), Index("ix_containers_page", "account_id", "created_at", "id"))

    id: Mapped[str] = _id()
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(63))
    plan_id: Mapped[str] = mapped_column(ForeignKey("plans.id"), index=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), index=True)
    node_id: Mapped[str | None] = mapped_column(ForeignKey("nodes.id"), index=True)
    id_slot: Mapped[int | None]
    wanted: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    limits: Mapped[dict[str, Any]]
    process: Mapped[dict[str, Any]]
    drivers: Mapped[dict[str, Any]]
    fence: Mapped[int] = mapped_column(default=0)
    checkpoint_id: Mapped[str | None] = mapped_column(String(26))
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    account: Mapped[Account] = relationship()
    plan: Mapped[Plan] = relationship()
    image: Mapped[Image] = relationship()
    node: Mapped[Node | None] = relationship()
    address: Mapped[Address | None] = relationship(back_populates="container")


class Checkpoint(Base):
    """Memory and files of a container at one instant, on the server where the container was. ``snapshot`` names the volume's part of it.

    ``kind`` is ``manual``, or ``suspend`` of one that holds a suspended container's memory; ``state`` is creating, ready, removing or
    broken (it could be neither finished nor removed).
    """

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_page", "account_id", "created_at", "id"),)

    id: Mapped[str] = _id()
    container_id: Mapped[str] = mapped_column(ForeignKey("containers.id"), index=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"), index=True)
    name: Mapped[str] = mapped_column(String(63), default="")
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), default="creating")
    bytes: Mapped[int] = mapped_column(default=0)
    stored: Mapped[int] = mapped_column(default=0)
    pages: Mapped[int] = mapped_column(default=0)
    memory: Mapped[int] = mapped_column(default=0)
    snapshot: Mapped[str | None] = mapped_column(String(255))
    frozen_ms: Mapped[float] = mapped_column(Float, default=0.0)
    writer: Mapped[str] = mapped_column(String(128), default="")
    parent: Mapped[str | None] = mapped_column(String(26))
    operation_id: Mapped[str | None] = mapped_column(String(26))
    created_at: Mapped[datetime] = mapped_column(default=now)
    container: Mapped[Container] = relationship()
    node: Mapped[Node] = relationship()


class Block(Base):
    """A prefix of the pool that is one account's own, so that tenants are told apart by prefix."""

    __tablename__ = "blocks"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)


class Address(Base):
    """One host number of the pool: a v4 address and the v6 address that goes with it.

    A released one stays as a row without container, and the one released longest ago is given out first.
    """

    __tablename__ = "addresses"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    block: Mapped[int] = mapped_column(ForeignKey("blocks.number"), index=True)
    container_id: Mapped[str | None] = mapped_column(ForeignKey("containers.id"), unique=True)
    released_at: Mapped[datetime | None]
    container: Mapped[Container | None] = relationship(back_populates="address")


class Operation(Base):
    """A request that was written down. This row is the truth about it."""

    __tablename__ = "operations"
    __table_args__ = (Index("ix_operations_open", "state", "lease_until"), Index("ix_operations_target", "target_id", "created_at"), Index("ix_operations_page", "account_id", "created_at", "id"))

    id: Mapped[str] = _id()
    kind: Mapped[str] = mapped_column(String(32))
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    target_kind: Mapped[str] = mapped_column(String(16))
    target_id: Mapped[str] = mapped_column(String(26))
    target_name: Mapped[str] = mapped_column(String(63))
    exclusive: Mapped[bool] = mapped_column(default=True)
    args: Mapped[dict[str, Any]] = mapped_column(default=dict)
    spec: Mapped[dict[str, Any] | None]
    asked_by: Mapped[str] = mapped_column(String(200), default="")
    reason: Mapped[str] = mapped_column(String(500), default="")
    state: Mapped[str] = mapped_column(String(16), default="queued")
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    steps: Mapped[list[Any]] = mapped_column(default=list)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[dict[str, Any] | None]
    waits_for: Mapped[str | None] = mapped_column(String(26))
    cancel_asked: Mapped[bool] = mapped_column(default=False)
    node_name: Mapped[str] = mapped_column(String(63), default="")
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Event(Base):
    """Something that happened, in the order it was learned. Append only."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_account", "account_id", "id"), Index("ix_events_container", "container_id", "id"))

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    account_id: Mapped[str | None] = mapped_column(String(26))
    container_id: Mapped[str | None] = mapped_column(String(26))
    container_name: Mapped[str] = mapped_column(String(63), default="")
    operation_id: Mapped[str | None] = mapped_column(String(26))
    node_name: Mapped[str] = mapped_column(String(63), default="")
    kind: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(String(1000))
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class IdempotencyKey(Base):
    """The answer that was given to a POST with an ``Idempotency-Key``, kept for a day."""

    __tablename__ = "idempotency_keys"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    status: Mapped[int] = mapped_column(default=0)
    body: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
