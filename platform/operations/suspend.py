"""suspend, discard: a container's memory goes to disk, its processors and memory are given back; or that memory is given up."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.lifecycle import State, Wanted, check_allowed
from hostler.core.names import new_id
from hostler.operations import mobility_steps, promises
from hostler.operations.checkpoint import learned
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step, load
from hostler.store import checkpoints
from hostler.store.models import Checkpoint, Container, Node, Operation


class Suspend(Kind):
    """The checkpoint is taken of the frozen container, which is then taken down. Its volume and address stay."""

    name = "suspend"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        if container.node is None:
            raise AssertionError(f"container {container.id} has no server")
        mobility_steps.check_online(container.node)
        row = checkpoints.add(session, container, new_id(), "suspend", op.id)
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        op.args = op.args | {"checkpoint": row.id}
        container.state = State.SUSPENDING
        node = container.node.name
        return [mobility_steps.take(node, row.id, keep=False), *mobility_steps.leave(node)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        self._on_disk(session, op, container, steps[0])
        container.state, container.wanted, container.error = State.SUSPENDED, Wanted.SUSPENDED, None

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """Undone, it runs on. Where its memory is on disk and it could not be taken down, it can be resumed."""
        container = session.get_one(Container, op.target_id)
        if "checkpoint" not in op.args:
            return  # refused before anything was touched
        steps = load(op.steps)
        taken = mobility_steps.outcome(steps, "checkpoint.create")
        if taken is not None:
            self._on_disk(session, op, container, taken)
        elif container.node is not None and mobility_steps.as_before(steps, container.node.name) and error.code != "node_offline":
            checkpoints.forget(session, session.get_one(Checkpoint, op.args["checkpoint"]))
            container.state, container.wanted = State.RUNNING, Wanted.RUNNING
            return
        else:
            session.get_one(Checkpoint, op.args["checkpoint"]).state = "broken"
        container.state, container.error = State.ERROR, error.model_dump(mode="json")

    def _on_disk(self, session: Session, op: Operation, container: Container, taken: Step) -> None:
        """The memory is in the checkpoint: the server's promise shrinks to the disk."""
        checkpoints.note_taken(session.get_one(Checkpoint, op.args["checkpoint"]), taken.result or {})
        op.result = learned(taken)
        container.checkpoint_id = op.args["checkpoint"]
        if container.node_id is not None:
            promises.give_back(session, container.node_id, promises.working(container))


class Discard(Kind):
    """A suspended container becomes a stopped one: its memory is given up, its files stay."""

    name = "discard"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        if container.checkpoint_id is None or container.node_id is None:
            raise Conflict(f"container {container.name} has no memory on disk", hint="stop it without --discard-memory", code="wrong_state")
        node = session.get_one(Node, container.node_id, with_for_update=True)
        promises.take(session, node, promises.working(container), self.provider.overcommit)
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        op.args = op.args | {"state_before": container.state}
        container.state = State.STOPPING
        row = session.get_one(Checkpoint, container.checkpoint_id)
        return [*mobility_steps.leave(node.name), mobility_steps.remove(node.name, row)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        checkpoints.forget(session, session.get_one(Checkpoint, container.checkpoint_id))
        container.state, container.wanted, container.checkpoint_id, container.error = State.STOPPED, Wanted.STOPPED, None, None

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        container = session.get_one(Container, op.target_id)
        if "state_before" in op.args and container.node_id is not None:
            promises.give_back(session, container.node_id, promises.working(container))
            container.state, container.error = State.ERROR, error.model_dump(mode="json")
