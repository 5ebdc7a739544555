"""resume: a suspended container comes back to memory, on its server or on another."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.core.lifecycle import State, Wanted, check_allowed
from hostler.core.messages import now
from hostler.operations import container_steps, mobility_steps, moving, promises
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.reap import ask_to_reap
from hostler.operations.steps import Step, StepState, load, settled
from hostler.store import checkpoints
from hostler.store.models import Checkpoint, Container, Node, Operation


class Resume(Kind):
    """On another server the checkpoint and the volume travel first. The checkpoint goes when the container runs."""

    name = "resume"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        row = moving.memory_of(session, container)
        before = container.state
        elsewhere = op.args.get("on") is not None and op.args["on"] != row.node.name
        steps = self._elsewhere(session, op, container, row) if elsewhere else self._here(session, op, container, row)
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        op.args = op.args | {"state_before": before}
        container.state = State.RESUMING
        return steps

    def _here(self, session: Session, op: Operation, container: Container, row: Checkpoint) -> list[Step]:
        node = session.get_one(Node, container.node_id, with_for_update=True)
        mobility_steps.check_online(node)
        promises.take(session, node, promises.working(container), self.provider.overcommit)
        left = mobility_steps.leave(node.name) if container.state == State.ERROR else []
        return [*left, *mobility_steps.come_back(node.name, row.id), mobility_steps.remove(node.name, row, afterwards=True)]

    def _elsewhere(self, session: Session, op: Operation, container: Container, row: Checkpoint) -> list[Step]:
        wanted = promises.whole(container)
        route = moving.choose_route(session, container, op.args["on"], self.provider.overcommit, wanted)
        dropped = moving.drop_checkpoints(session, container, route.source.name, bool(op.args.get("drop_checkpoints")))
        sides = moving.claim(session, op, container, route, wanted, self.provider)
        source, target = sides
        return [
            container_steps.placed(target.name, route.reasons),
            *moving.travel(op, sides, mobility_steps.LIVE, "memory and files, on disk,", row.id),
            mobility_steps.move_in(target, op.id, "it is this server's now"),
            *mobility_steps.come_back(target.name, row.id),
            mobility_steps.remove(target.name, row, afterwards=True),
            *dropped,
            *moving.left_behind(session, container, source.name),
            mobility_steps.clean(source.name, op.id),
        ]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        row = session.get_one(Checkpoint, container.checkpoint_id)
        if "target" in op.args:
            moving.arrived(session, op, container)
        restored = mobility_steps.outcome(steps, "checkpoint.restore")
        report = moving.report(op, steps) if "target" in op.args else {}
        op.result = {"memory": row.memory, "ms": (restored.result or {}).get("ms") if restored else None} | report | mobility_steps.hook(steps)
        self._forget_memory(session, row, steps)
        container.state, container.wanted, container.checkpoint_id = State.RUNNING, Wanted.RUNNING, None
        container.started_at, container.error = now(), None

    def _forget_memory(self, session: Session, row: Checkpoint, steps: list[Step]) -> None:
        """Where the file could not be removed, it is shown as a broken checkpoint, which can be removed later."""
        file = next(step for step in steps if step.verb == "checkpoint.remove" and step.payload["checkpoint"] == row.id and step.undo is None)
        removed = file.state == StepState.DONE
        if removed:
            checkpoints.forget(session, row)
        else:
            row.kind, row.state = "manual", "broken"

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """It is suspended as before; after the hand-over, on the other server."""
        container = session.get_one(Container, op.target_id)
        if "state_before" not in op.args or container.node_id is None:
            return  # refused before anything was touched
        steps = load(op.steps)
        if "target" not in op.args:
            promises.give_back(session, container.node_id, promises.working(container))
        elif mobility_steps.handed_over(steps):
            moving.arrived(session, op, container)
            promises.give_back(session, container.node_id, promises.working(container))
            ask_to_reap(session, op, op.args["from"], "the move ended before its source was cleaned up")
        else:
            moving.stayed(session, op, promises.whole(container))
        session.flush()
        session.refresh(container, ["node"])
        whole = container.node is not None and mobility_steps.as_before(steps[settled(steps) :], container.node.name) and error.code != "node_offline"
        container.wanted = Wanted.SUSPENDED
        container.state = State.SUSPENDED if whole and op.args["state_before"] == State.SUSPENDED else State.ERROR
        container.error = None if container.state == State.SUSPENDED else error.model_dump(mode="json")

