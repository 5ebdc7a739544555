"""States of a container, and which operation may begin in which.

What is *wanted* (:class:`Wanted`) and what was *last seen* (:class:`State`) are two columns of the store.
"""

from __future__ import annotations

from enum import StrEnum

from hostler.core.errors import Conflict


class State(StrEnum):
    """Last seen state. Those ending in -ing are between two of the others, owned by an operation."""

    STOPPED = "stopped"
    RUNNING = "running"
    FROZEN = "frozen"
    SUSPENDED = "suspended"
    ERROR = "error"
    PROVISIONING = "provisioning"
    STARTING = "starting"
    STOPPING = "stopping"
    SUSPENDING = "suspending"
    RESUMING = "resuming"
    MIGRATING = "migrating"
    DELETING = "deleting"


class Wanted(StrEnum):
    """What the owner asked for last."""

    STOPPED = "stopped"
    RUNNING = "running"
    SUSPENDED = "suspended"
    ABSENT = "absent"


#: operation kind → states in which it may begin
ALLOWED: dict[str, frozenset[State]] = {
    "start": frozenset({State.STOPPED, State.ERROR}),
    "stop": frozenset({State.RUNNING, State.FROZEN, State.ERROR}),
    "restart": frozenset({State.RUNNING, State.FROZEN, State.STOPPED, State.ERROR}),
    "resize": frozenset({State.RUNNING, State.STOPPED}),
    "exec": frozenset({State.RUNNING}),
    "suspend": frozenset({State.RUNNING}),
    "discard": frozenset({State.SUSPENDED, State.ERROR}),
    "resume": frozenset({State.SUSPENDED, State.ERROR}),
    "migrate": frozenset({State.RUNNING, State.SUSPENDED, State.STOPPED}),
    "checkpoint": frozenset({State.RUNNING}),
    "checkpoint.delete": frozenset({State.STOPPED, State.RUNNING, State.FROZEN, State.SUSPENDED, State.ERROR}),
    "checkpoint.export": frozenset({State.STOPPED, State.RUNNING, State.FROZEN, State.SUSPENDED, State.ERROR}),
    "restore": frozenset({State.RUNNING, State.STOPPED, State.SUSPENDED, State.ERROR}),
    "delete": frozenset({State.STOPPED, State.RUNNING, State.FROZEN, State.SUSPENDED, State.ERROR}),
}

_ADVICE = {
    State.STOPPED: "start it first",
    State.RUNNING: "stop it first",
    State.SUSPENDED: "resume it first, or give its memory up: hostler stop --discard-memory",
    State.ERROR: "its last operation says what went wrong; start it again or delete it",
}


def check_allowed(kind: str, state: State, name: str) -> None:
    """Raise :class:`Conflict` when operation ``kind`` cannot begin in ``state``."""
    if state not in ALLOWED[kind]:
        hint = _ADVICE.get(state, "wait for its running operation to end")
        raise Conflict(f"container {name} is {state.value}: cannot {kind} it", hint=hint, code="wrong_state")
