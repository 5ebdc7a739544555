"""exec: a command inside a running container. Many may run at once, beside any other operation."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.core.lifecycle import State, check_allowed
from hostler.operations.kind import Kind
from hostler.operations.steps import Step
from hostler.store.models import Container, Operation


class Exec(Kind):
    """One step, no undo: what a command did cannot be undone. It never runs twice (see node/journal.py)."""

    name = "exec"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        if container.node is None:
            raise AssertionError(f"container {container.id} has no server")
        payload = {"container": container.id, "ns": container.drivers["ns"], "command": op.args["command"]}
        return [Step(name="exec", node=container.node.name, verb="sandbox.exec", payload=payload)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        op.result = steps[0].result or {}

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """The operation's error says it all; the container is as the command left it."""
