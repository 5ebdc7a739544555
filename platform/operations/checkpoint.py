"""checkpoint, checkpoint.delete: memory and files of a container at one instant, kept on its server."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.lifecycle import State, check_allowed
from hostler.operations import mobility_steps
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step, StepState, load
from hostler.store import checkpoints
from hostler.store.models import Checkpoint, Container, Operation


def ready(session: Session, checkpoint: str, container: Container) -> Checkpoint:
    """A checkpoint that ``container`` can be brought back from. Raises :class:`Conflict` in words."""
    row = session.get(Checkpoint, checkpoint)
    if row is None:
        raise Conflict(f"checkpoint {checkpoint} is gone", hint="hostler checkpoint ls shows what there is", code="wrong_state")
    if row.state != "ready":
        raise Conflict(f"checkpoint {checkpoint} is {row.state}", hint="hostler checkpoint ls shows what there is", code="wrong_state")
    if row.container_id != container.id:
        raise Conflict(f"checkpoint {checkpoint} is not one of {container.name}'s", hint="hostler clone makes a new container of it", code="conflict")
    if row.node_id != container.node_id:
        raise Conflict(f"checkpoint {checkpoint} is on another server than {container.name}", hint="move the container back to it first", code="conflict")
    return row


def learned(step: Step) -> dict[str, object]:
    """What people are told of a checkpoint that was taken."""
    told = step.result or {}
    return {"checkpoint": step.payload["checkpoint"]} | {key: told.get(key) for key in ("bytes", "stored", "frozen_ms", "ms", "memory", "snapshot")}


class TakeCheckpoint(Kind):
    """The container stands still for a moment and goes on."""

    name = "checkpoint"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        checkpoints.check_quota(session, container)
        if container.node is None:
            raise AssertionError(f"container {container.id} has no server")
        mobility_steps.check_online(container.node)
        checkpoints.add(session, container, op.args["checkpoint"], "manual", op.id, op.args.get("label", ""))
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        return [mobility_steps.take(container.node.name, op.args["checkpoint"], keep=True)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        checkpoints.note_taken(session.get_one(Checkpoint, op.args["checkpoint"]), steps[0].result or {})
        op.result = learned(steps[0])

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        row = session.get(Checkpoint, op.args["checkpoint"])
        if row is None:
            return  # refused before anything was touched
        if all(step.state == StepState.UNDONE for step in load(op.steps)):
            checkpoints.forget(session, row)
            return
        row.state = "broken"
        container = session.get_one(Container, op.target_id)
        container.state, container.error = State.ERROR, error.model_dump(mode="json")


class DeleteCheckpoint(Kind):
    """Its file and its snapshot; the container stays as it is."""

    name = "checkpoint.delete"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        row = session.get(Checkpoint, op.args["checkpoint"])
        if row is None:
            return []  # asked for twice
        if row.id == container.checkpoint_id:
            raise Conflict(
                f"checkpoint {row.id} holds the memory of {container.name}, which is suspended",
                hint="resume it first, or give its memory up: hostler stop --discard-memory", code="in_use",
            )  # fmt: skip
        row.state = "removing"
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        return [mobility_steps.remove(row.node.name, row)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        row = session.get(Checkpoint, op.args["checkpoint"])
        if row is not None:
            checkpoints.forget(session, row)

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        row = session.get(Checkpoint, op.args["checkpoint"])
        if row is not None and row.state == "removing":
            row.state = "broken"
