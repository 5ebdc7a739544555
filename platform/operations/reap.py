"""reap: what a container has left on a server that it is not on: the source of a move that was away when it should clean up, or a target
that was away when a move was given up."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.operations import mobility_steps
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step, load
from hostler.store.models import Container, Operation
from hostler.store.nodes import find_node

#: Of a container's moves, only the last few can have left something.
_LOOKED_AT = 20


def reaping(session: Session, container: Container, node: str) -> Step | None:
    """The step that removes what a move of the container has left on ``node``; None when no move says that it may be removed."""
    node_id = find_node(session, node).id
    moves = session.scalars(
        select(Operation)
        .where(Operation.target_id == container.id, Operation.kind.in_(("migrate", "resume")), Operation.ended_at.is_not(None))
        .order_by(Operation.ended_at.desc())
        .limit(_LOOKED_AT)
    ).all()
    for move in moves:
        over = mobility_steps.handed_over(load(move.steps))
        if over and move.args.get("source") == node_id:
            return mobility_steps.clean(node, move.id).model_copy(update={"afterwards": False})
        if not over and move.args.get("target") == node_id:
            return Step(name="discard", node=node, verb="move.discard", payload={"operation": move.id}, note=f"what came to {node} and did not stay")
    return None


class Reap(Kind):
    """In line with the container's other operations, so that it never meets a move. Where the container lives, nothing is touched."""

    name = "reap"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        if container.node is None or container.address is None or container.node.name == op.args["node"]:
            return []
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        step = reaping(session, container, op.args["node"])
        return [] if step is None else [step]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        """The container is where it was."""

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """It is tried again when the server greets the next time."""
