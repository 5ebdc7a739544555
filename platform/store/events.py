"""The event log: what happened, for tenants and operators."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from hostler.store.models import Container, Event


def add_event(
    session: Session,
    kind: str,
    message: str,
    *,
    account: str | None = None,
    container: Container | None = None,
    operation: str | None = None,
    node: str = "",
    at: datetime | None = None,
    details: dict[str, Any] | None = None,
) -> Event:
    """Write an event down. A container's event belongs to its account."""
    event = Event(
        kind=kind,
        message=message[:1000],
        account_id=container.account_id if container is not None else account,
        container_id=container.id if container is not None else None,
        container_name=container.name if container is not None else "",
        operation_id=operation,
        node_name=node,
        details=details or {},
    )
    if at is not None:
        event.at = at
    session.add(event)
    return event
