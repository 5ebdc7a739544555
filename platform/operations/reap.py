"""reap: what a container has left on a server that it is not on: the source of a move that was away when it should clean up, or a target
that was away when a move was given up. The container itself may be deleted meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.operations import mobility_steps
from hostler.operations.kind import Kind
from hostler.operations.steps import Step, load
from hostler.store.models import Container, Operation
from hostler.store.nodes import find_node

#: Of a container's moves, only the last few can have left something.
_LOOKED_AT = 20


@dataclass(frozen=True)
class Leftover:
    """What a move has left on a server, and the steps that remove it."""

    move: Operation
    steps: list[Step]


def leftover(session: Session, container: str, node: str) -> Leftover | None:
    """What a move of the container has left on ``node``; None when no move says that it may be removed."""
    node_id = find_node(session, node).id
    moves = session.scalars(
        select(Operation)
        .where(Operation.target_id == container, Operation.kind.in_(("migrate", "resume")), Operation.ended_at.is_not(None))
        .order_by(Operation.ended_at.desc())
        .limit(_LOOKED_AT)
    ).all()
    for move in moves:
        over = mobility_steps.handed_over(load(move.steps))
        if over and move.args.get("source") == node_id:
            return Leftover(move, [*_file(move, node), mobility_steps.clean(node, move.id).model_copy(update={"afterwards": False})])
        if not over and move.args.get("target") == node_id:
            note = f"what came to {node} and did not stay"
            return Leftover(move, [*_file(move, node), Step(name="discard", node=node, verb="move.discard", payload={"operation": move.id}, note=note)])
    return None


def _file(move: Operation, node: str) -> list[Step]:
    """The file of a suspended container's memory, if that is what was moved."""
    moved = {str(step.payload["suspended"]) for step in load(move.steps) if step.verb == "move.out" and step.payload.get("suspended")}
    return [Step(name="remove checkpoint", node=node, verb="checkpoint.remove", payload={"checkpoint": one, "snapshot": None}) for one in sorted(moved)]


def ask_to_reap(session: Session, move: Operation, node: str, reason: str) -> Operation:
    """An operation that reaps on ``node`` what ``move`` left. Its fence follows the move's where there is no container to count on."""
    operation = Operation(
        kind="reap", account_id=move.account_id, target_kind="container", target_id=move.target_id, target_name=move.target_name, args={"node": node},
        fence=move.fence, asked_by="the platform", reason=reason[:500],
    )  # fmt: skip
    session.add(operation)
    session.flush()
    return operation


class Reap(Kind):
    """In line with the container's other operations, so that it never meets a move. Where the container lives, nothing is touched."""

    name = "reap"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container, node = session.get(Container, op.target_id), op.args["node"]
        if container is not None and container.node is not None and container.node.name == node:
            return []
        found = leftover(session, op.target_id, node)
        if found is None:
            return []
        op.spec = found.move.spec
        return found.steps

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        """The container is where it was."""

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """It is tried again when the server greets the next time."""
