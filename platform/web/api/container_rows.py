"""Containers as the API shows them: one query for the rows with all that hangs on them, one for their open operations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload, selectinload

from hostler.core.api import ContainerOut, OperationRef
from hostler.core.limits import Limits
from hostler.operations.unasked import OPEN
from hostler.store.addresses import Pool
from hostler.store.models import Container, Operation
from hostler.web.api.shapes import error_out


def rows_query() -> Select[Container]:
    """Containers with their account, plan, image, server and address.

    Few plans, images and servers serve many containers: each is read once, not once a row.
    """
    return select(Container).options(
        selectinload(Container.account),
        selectinload(Container.plan),
        selectinload(Container.image),
        selectinload(Container.node),
        joinedload(Container.address),
    )


def open_operations(session: Session, containers: Iterable[str]) -> dict[str, OperationRef]:
    """The operation that holds each container, the oldest first in line; commands that run beside it are not meant."""
    rows = session.execute(
        select(Operation.target_id, Operation.id, Operation.kind, Operation.state)
        .where(Operation.target_id.in_(list(containers)), Operation.state.in_(OPEN), Operation.exclusive.is_(True))
        .order_by(Operation.created_at.desc(), Operation.id.desc())
    )
    return {row.target_id: OperationRef(id=row.id, kind=row.kind, state=row.state) for row in rows}


def container_out(row: Container, operation: OperationRef | None, pool: Pool, *, operator: bool) -> ContainerOut:
    """A container."""
    process: dict[str, Any] = row.process
    number = row.address.number if row.address is not None else None
    return ContainerOut(
        id=row.id,
        name=row.name,
        account=row.account.name,
        state=row.state,
        wanted=row.wanted,
        node=row.node.name if row.node is not None else None,
        image=row.image.name,
        plan=row.plan.name,
        limits=Limits.model_validate(row.limits),
        address_v4=str(pool.address_v4(number)) if number is not None else None,
        address_v6=str(pool.address_v6(number)) if number is not None else None,
        ports=list(row.image.config.get("ports", ())),
        args=list(process.get("args", ())),
        env=list(process.get("env", ())),
        user=process.get("user", ""),
        drivers=row.drivers,
        created_at=row.created_at,
        started_at=row.started_at,
        checkpoint=row.checkpoint_id,
        operation=operation,
        error=error_out(row.error, operator=operator),
    )
