"""reap: what a container has left on a server that it is not on, such as the source of a move that went away before it could clean up."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.operations import mobility_steps
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step
from hostler.store.models import Container, Operation


class Reap(Kind):
    """In line with the container's other operations, so that it never meets a move. Where the container lives, nothing is touched."""

    name = "reap"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        if container.node is None or container.address is None or container.node.name == op.args["node"]:
            return []
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        step = mobility_steps.clean(op.args["node"], op.id)
        return [step.model_copy(update={"afterwards": False})]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        """The container is where it was."""

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """It is tried again when the server greets the next time."""
