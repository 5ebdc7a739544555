"""A step of an operation, as its row keeps it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from hostler.core.errors import ErrorReport


class StepState(StrEnum):
    """Where a step is. ``running`` is also the state of one whose outcome was never learned."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_FAILED = "undo_failed"


class Step(BaseModel):
    """A verb for one server, and the verb that undoes it. Both are idempotent.

    ``node`` empty: done by the control worker itself when the operation began, in the same transaction.
    ``weight`` is its part of the progress bar; ``note`` a sentence for whoever looks.

    ``settles``: once it is done there is no way back; neither it nor a step before it is undone, and a cancel comes too late.
    ``awaited``: only its server knows how it ended, so that one is waited for however long it is away.
    ``afterwards``: tidying up; should it fail, what was asked for is done all the same.
    """

    name: str
    node: str = ""
    verb: str = ""
    payload: dict[str, Any] = {}
    undo: str | None = None
    undo_payload: dict[str, Any] = {}
    weight: int = 1
    state: StepState = StepState.PENDING
    note: str = ""
    settles: bool = False
    awaited: bool = False
    afterwards: bool = False
    result: dict[str, Any] | None = None
    error: ErrorReport | None = None
    ms: float | None = None


def load(rows: list[Any]) -> list[Step]:
    """Steps from a row's JSON."""
    return [Step.model_validate(row) for row in rows]


def dump(steps: list[Step]) -> list[Any]:
    """Steps as a row's JSON."""
    return [step.model_dump(mode="json", exclude_defaults=True) for step in steps]


def progress(steps: list[Step]) -> float:
    """Part done, 0 … 1."""
    total = sum(step.weight for step in steps)
    done = sum(step.weight for step in steps if step.state == StepState.DONE)
    return done / total if total else 1.0


def next_run(steps: list[Step]) -> list[int]:
    """Indices of the consecutive unfinished steps for one server that come next."""
    open_ones = [i for i, step in enumerate(steps) if step.state in (StepState.PENDING, StepState.RUNNING)]
    run: list[int] = []
    for index in open_ones:
        if run and steps[index].node != steps[run[0]].node:
            break
        run.append(index)
    return run


def settled(steps: list[Step]) -> int:
    """How many steps there is no way back behind."""
    return max((i + 1 for i, step in enumerate(steps) if step.settles and step.state == StepState.DONE), default=0)


def only_tidying(steps: list[Step]) -> bool:
    """Whether all that is left to do may as well fail."""
    return all(step.afterwards for step in steps if step.state in (StepState.PENDING, StepState.RUNNING))


def undo_run(steps: list[Step]) -> list[int]:
    """Indices of the steps to undo next, last first, for one server. A failed step is undone too: it may be half done."""
    first = settled(steps)
    undoable = [
        i
        for i, step in enumerate(steps)
        if i >= first and step.undo and step.state in (StepState.DONE, StepState.FAILED, StepState.RUNNING, StepState.UNDOING)
    ]
    run: list[int] = []
    for index in reversed(undoable):
        if run and steps[index].node != steps[run[0]].node:
            break
        run.append(index)
    return run
