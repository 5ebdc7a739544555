"""delete: a container with all that it has, from its server and the store."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.core.lifecycle import State, check_allowed
from hostler.operations import container_steps, mobility_steps
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.provision import forget_container
from hostler.operations.steps import Step
from hostler.store import checkpoints
from hostler.store.models import Container, Operation


class Delete(Kind):
    """There is no way back from here: what fails is tried again by deleting again, every step being idempotent."""

    name = "delete"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        op.args = op.args | {"claimed": True}
        container.state = State.DELETING
        if container.node is None or container.address is None:
            return []  # it never came to a server
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        node = container.node.name
        kept = [mobility_steps.remove(row.node.name, row) for row in checkpoints.of_container(session, container.id)]
        return [*container_steps.take_down(node, float(op.args.get("grace", 0))), *kept, *container_steps.remove_volume(node)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        forget_container(session, session.get_one(Container, op.target_id))

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        container = session.get_one(Container, op.target_id)
        if op.args.get("claimed"):
            container.state, container.error = State.ERROR, error.model_dump(mode="json")
