"""restore: a container back in time, memory and files of one instant."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport, Unsupported
from hostler.core.lifecycle import State, Wanted, check_allowed
from hostler.core.messages import now
from hostler.operations import container_steps, mobility_steps, promises
from hostler.operations.checkpoint import ready
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step, load
from hostler.store.models import Checkpoint, Container, Node, Operation


def check_has_files(row: Checkpoint, storage: str) -> None:
    """Raise :class:`Unsupported` for a checkpoint of memory alone: over other files it would be another container."""
    if row.snapshot is None:
        raise Unsupported(
            f"checkpoint {row.id} holds no files: storage driver {storage} makes no snapshots",
            hint="make the container with a storage driver that does, such as btrfs", code="no_snapshot",
        )  # fmt: skip


class Restore(Kind):
    """What runs is killed, and what was takes its place. A suspended container's memory is kept, as a checkpoint to go back to."""

    name = "restore"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        before = State(container.state)
        check_allowed(self.name, before, container.name)
        row = ready(session, op.args["checkpoint"], container)
        check_has_files(row, container.drivers.get("storage", ""))
        node = session.get_one(Node, container.node_id, with_for_update=True)
        mobility_steps.check_online(node)
        if container.checkpoint_id is not None:
            promises.take(session, node, promises.working(container), self.provider.overcommit)
            session.get_one(Checkpoint, container.checkpoint_id).kind = "manual"
            container.checkpoint_id = None
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        op.args = op.args | {"state_before": before}
        container.state = State.RESUMING
        down = [] if before == State.STOPPED else container_steps.take_down(node.name, 0)
        return [*down, *mobility_steps.come_back(node.name, row.id, rollback=True, close_connections=True)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        container.state, container.wanted, container.started_at, container.error = State.RUNNING, Wanted.RUNNING, now(), None
        restored = mobility_steps.outcome(steps, "checkpoint.restore")
        op.result = {"checkpoint": op.args["checkpoint"], "ms": (restored.result or {}).get("ms") if restored else None} | mobility_steps.hook(steps)

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        container = session.get_one(Container, op.target_id)
        if "state_before" not in op.args or container.node is None:
            return  # refused before anything was touched
        steps = load(op.steps)
        hint = f"{error.hint}; its files may be those of checkpoint {op.args['checkpoint']}: start it, or restore it again"
        told = error.model_copy(update={"hint": hint.lstrip("; ")})
        undone = mobility_steps.as_before(steps, container.node.name) and error.code != "node_offline"
        tried = mobility_steps.begun(steps, "limits.create") or op.args["state_before"] == State.STOPPED
        op.error = told.model_dump(mode="json")
        container.error = op.error
        container.state = State.STOPPED if undone and tried else State.ERROR
        container.wanted = Wanted.STOPPED if undone and tried else container.wanted
