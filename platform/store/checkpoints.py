"""Checkpoints in the store: whose they are, and what their operations learned of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from hostler.core.errors import NoRoom, NotFound
from hostler.store.models import Account, Checkpoint, Container

#: Checkpoints that one container may have.
LIMIT = 32
_LEARNED = ("bytes", "stored", "pages", "memory", "snapshot", "frozen_ms", "writer")


def find_checkpoint(session: Session, account: Account, checkpoint: str) -> Checkpoint:
    """The account's checkpoint of that id; the provider finds everybody's. Raises :class:`NotFound`."""
    query = select(Checkpoint).options(joinedload(Checkpoint.container), joinedload(Checkpoint.node)).where(Checkpoint.id == checkpoint)
    found = session.scalar(query)
    if found is None or not (account.provider or found.account_id == account.id):
        raise NotFound(f"there is no checkpoint {checkpoint}", hint="hostler checkpoint ls shows yours")
    return found


def of_container(session: Session, container: str) -> list[Checkpoint]:
    """All of a container's, the oldest first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.container_id == container).order_by(Checkpoint.created_at, Checkpoint.id)))


def check_quota(session: Session, container: Container) -> None:
    """Raise :class:`NoRoom` when the container has as many as it may."""
    count = session.scalar(select(func.count()).select_from(Checkpoint).where(Checkpoint.container_id == container.id)) or 0
    if count >= LIMIT:
        raise NoRoom(
            f"container {container.name} has {count} checkpoints, and may have {LIMIT}",
            hint="remove some: hostler checkpoint rm", code="too_many_checkpoints",
        )  # fmt: skip


def add(session: Session, container: Container, checkpoint: str, kind: str, operation: str, name: str = "") -> Checkpoint:
    """A checkpoint that is about to be taken, where the container is now."""
    if container.node_id is None:
        raise AssertionError(f"container {container.id} has no server")
    row = Checkpoint(
        id=checkpoint, container_id=container.id, account_id=container.account_id, node_id=container.node_id, name=name, kind=kind, operation_id=operation
    )
    session.add(row)
    session.flush()
    return row


def note_taken(row: Checkpoint, learned: dict[str, Any]) -> None:
    """Write down what the server said of the checkpoint it took."""
    for name in _LEARNED:
        if learned.get(name) is not None:
            setattr(row, name, learned[name])
    row.state = "ready"


def forget(session: Session, row: Checkpoint) -> None:
    """Take it out of the store."""
    session.delete(row)
    session.flush()
