"""migrate: a container moves to another server, as live as it can be, with its address and its connections."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport
from hostler.core.lifecycle import State, check_allowed
from hostler.core.messages import now
from hostler.operations import container_steps, mobility_steps, moving, promises
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.mobility_steps import Side
from hostler.operations.reap import ask_to_reap
from hostler.operations.steps import Step, StepState, load
from hostler.store.models import Container, Node, Operation

#: Refusals to move what runs, after which a restart may help.
_NOT_LIVE = frozenset({"cannot_checkpoint", "cannot_restore", "cannot_move", "unsupported", "no_method", "does_not_fit", "no_driver"})
_ITS_OWN = "it is this server's now"
#: Seconds that a container which is moved by a restart has to end.
_GRACE = 10.0


class Migrate(Kind):
    """Until the hand-over any failure leaves the container where it was; from then on it is the target's, whatever happens.

    The servers choose the method among those allowed. Only where none can be, and the request allows it, it is stopped, copied and started.
    """

    name = "migrate"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        before = State(container.state)
        check_allowed(self.name, before, container.name)
        wanted = promises.held(container)
        route = moving.choose_route(session, container, op.args.get("to"), self.provider.overcommit, wanted)
        dropped = moving.drop_checkpoints(session, container, route.source.name, bool(op.args.get("drop_checkpoints")))
        sides = moving.claim(session, op, container, route, wanted, self.provider)
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        op.args = op.args | {"state_before": before}
        container.state = State.MIGRATING
        steps = [container_steps.placed(route.target.name, route.reasons), *self._way(op, container, before, sides)]
        return [*steps, *dropped, *moving.left_behind(session, container, route.source.name), mobility_steps.clean(route.source.name, op.id)]

    def _way(self, op: Operation, container: Container, before: State, sides: tuple[Side, Side]) -> list[Step]:
        target = sides[1]
        if before == State.STOPPED:
            return [*moving.travel(op, sides, mobility_steps.VOLUME_ONLY, "files"), mobility_steps.move_in(target, op.id, _ITS_OWN)]
        if before == State.SUSPENDED:
            travel = moving.travel(op, sides, mobility_steps.LIVE, "memory and files, on disk,", container.checkpoint_id)
            return [*travel, mobility_steps.move_in(target, op.id, _ITS_OWN)]
        methods = op.args.get("methods") or mobility_steps.LIVE
        return [*moving.travel(op, sides, methods, "memory and files"), mobility_steps.move_in(target, op.id, "it runs, and its packets flow")]

    def instead(self, session: Session, op: Operation, error: ErrorReport) -> list[Step]:
        """Stop, copy, start; once, if that was allowed and the processes cannot move."""
        args = op.args
        if not args.get("allow_restart") or args.get("restarted") or args.get("state_before") != State.RUNNING or error.code not in _NOT_LIVE:
            return []
        op.args = args | {"restarted": error.message}
        sides = (mobility_steps.side(session.get_one(Node, args["source"])), mobility_steps.side(session.get_one(Node, args["target"])))
        source, target = sides
        why = Step(name="not live", state=StepState.DONE, note=f"{error.message}; so it is stopped, copied and started", ms=0)
        tidying = [step.model_copy() for step in load(op.steps) if step.afterwards]
        for step in tidying:
            step.state = StepState.PENDING
        return [
            why,
            *container_steps.take_down_to_move(source.name, _GRACE),
            *moving.travel(op, sides, mobility_steps.VOLUME_ONLY, "files"),
            mobility_steps.move_in(target, op.id, _ITS_OWN),
            *container_steps.bring_up(target.name),
            *tidying,
        ]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        before = State(op.args["state_before"])
        moving.arrived(session, op, container)
        container.state, container.error = before, None
        if before == State.RUNNING:
            container.started_at = now()
        restarted: dict[str, Any] = {"method": "restart", "why": op.args["restarted"]} if op.args.get("restarted") else {}
        op.result = moving.report(op, steps) | restarted | mobility_steps.hook(steps)

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        container = session.get_one(Container, op.target_id)
        if "state_before" not in op.args or container.node is None:
            return  # refused before anything was touched
        steps = load(op.steps)
        told = error.model_dump(mode="json")
        if mobility_steps.handed_over(steps):
            moving.arrived(session, op, container)
            hint = f"it belongs to server {op.args['chosen']} now: hostler restart {container.name} brings it up anew there"
            container.state, container.error = State.ERROR, told | {"hint": f"{error.hint}; {hint}".lstrip("; ")}
            op.result = moving.report(op, steps)
            ask_to_reap(session, op, op.args["from"], "the move ended before its source was cleaned up")
            return
        moving.stayed(session, op, promises.held(container))
        whole = mobility_steps.as_before(steps, container.node.name)
        container.state = State(op.args["state_before"]) if whole else State.ERROR
        container.error = None if whole else told
