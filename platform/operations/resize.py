"""resize: other limits for a container, live."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport, NoRoom
from hostler.core.lifecycle import State, check_allowed
from hostler.core.limits import Limits, LimitsChange
from hostler.operations import container_steps
from hostler.operations.candidates import candidate
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step
from hostler.placement.choose import refusal
from hostler.store import nodes
from hostler.store.models import Container, Node, Operation


class Resize(Kind):
    """The server's promise grows before the limits do, and shrinks after they did."""

    name = "resize"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        old = Limits.model_validate(container.limits)
        new = old.changed(LimitsChange.model_validate(op.args["change"]))
        node = session.get_one(Node, container.node_id, with_for_update=True)
        self._check_room(node, old, new)
        op.args = op.args | {"old": old.model_dump(mode="json"), "new": new.model_dump(mode="json")}
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        nodes.promise(session, node.id, old, sign=-1)
        nodes.promise(session, node.id, new)
        return container_steps.resize(node.name, old, new, running=container.state == State.RUNNING)

    def _check_room(self, node: Node, old: Limits, new: Limits) -> None:
        growth = Limits(
            cpu=_growth(old.cpu, new.cpu), memory=_size_growth(old.memory, new.memory), disk=_size_growth(old.disk, new.disk)
        )
        no = refusal(candidate(node), growth, self.provider.overcommit)
        if no is not None:
            raise NoRoom(f"server {node.name} {no}", hint="ask for less, or move the container to a server with more room", code="no_room")

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        container.limits = op.args["new"]

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        container = session.get_one(Container, op.target_id)
        if "new" in op.args and container.node_id is not None:
            nodes.promise(session, container.node_id, Limits.model_validate(op.args["new"]), sign=-1)
            nodes.promise(session, container.node_id, Limits.model_validate(op.args["old"]))


def _growth(old: float | None, new: float | None) -> float | None:
    return new - (old or 0) if new is not None and new > (old or 0) + 1e-9 else None


def _size_growth(old: int | None, new: int | None) -> int | None:
    """Bytes more than before; at least the smallest size that a limit can have."""
    return max(new - (old or 0), 4 << 20) if new is not None and new > (old or 0) else None
