"""Operations that the platform itself asks for; above all the stop of a container whose init ended by itself.

News of an end may come before the report of the start, while another operation is open, twice, or late, when that init has
long been replaced. So it is not the news that decides but a comparison of what is written down: the init that was started last, and
the ends that were told. It is made when news comes and whenever an operation on the container ends.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.lifecycle import State
from hostler.operations.steps import load
from hostler.store.models import Container, Event, Operation

#: States of an operation that has not ended.
OPEN = ("queued", "running", "undoing")
_BRING_UP = ("provision", "start", "restart", "resume", "migrate", "restore", "clone", "checkpoint.import")
#: Verbs whose result tells the init that they made or brought back.
_MAKES_INIT = ("sandbox.create", "checkpoint.restore", "checkpoint.import", "move.in")
#: Of a container's ends, only the last few can be the present init's.
_LOOKED_AT = 5


def is_busy(session: Session, container: Container) -> bool:
    """Whether an operation that changes the container is open."""
    query = select(Operation.id).where(Operation.target_id == container.id, Operation.exclusive.is_(True), Operation.state.in_(OPEN))
    return session.scalar(query.limit(1)) is not None


def platform_operation(session: Session, kind: str, container: Container, reason: str) -> Operation:
    """An operation that nobody but the platform asked for. Whoever adds it has the engine look at it after the commit."""
    operation = Operation(
        kind=kind,
        account_id=container.account_id,
        target_kind="container",
        target_id=container.id,
        target_name=container.name,
        asked_by="the platform",
        reason=reason[:500],
    )
    session.add(operation)
    session.flush()
    return operation


def stop_if_ended(session: Session, container: Container) -> str | None:
    """If the init of a running container is known to have ended, a stop, which takes down what is left of it; its id.

    Nothing while an operation is open: its end asks again.
    """
    if container.state != State.RUNNING or is_busy(session, container):
        return None
    ends = session.scalars(
        select(Event).where(Event.container_id == container.id, Event.kind == "exited").order_by(Event.id.desc()).limit(_LOOKED_AT)
    ).all()
    init = _present_init(session, container) if ends else None
    for end in ends:
        if _is_of(end, container, init):
            return platform_operation(session, "stop", container, end.message).id
    return None


def _present_init(session: Session, container: Container) -> dict[str, Any] | None:
    """Pid and start time of the init that was made last, as its server said; None when that is not written down any more."""
    last = session.scalar(
        select(Operation)
        .where(Operation.target_id == container.id, Operation.kind.in_(_BRING_UP), Operation.state == "done")
        .order_by(Operation.ended_at.desc())
        .limit(1)
    )
    made = next((step.result for step in reversed(load(last.steps)) if step.verb in _MAKES_INIT and step.result), None) if last is not None else None
    return made if made and made.get("started_at") is not None else None


def _is_of(end: Event, container: Container, init: dict[str, Any] | None) -> bool:
    if init is not None:
        return (end.details.get("pid"), end.details.get("started_at")) == (init["pid"], init["started_at"])
    return container.started_at is None or end.at >= container.started_at
