"""start, stop, restart: a container's volume and address stay, its processes come and go."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.lifecycle import State, Wanted, check_allowed
from hostler.core.messages import now
from hostler.operations import container_steps
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step
from hostler.store.models import Container, Operation

#: Seconds that init has to obey its stop signal, unless the request says otherwise.
GRACE = 10.0


class _Power(Kind):
    """What the three share: the check, the state between, and the state after a failure."""

    between: State

    def _claim(self, session: Session, op: Operation) -> tuple[Container, str]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        if container.checkpoint_id is not None:
            raise Conflict(
                f"the memory of {container.name} is on disk", hint="resume it, or give that memory up: hostler stop --discard-memory", code="wrong_state"
            )
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        op.args = op.args | {"state_before": container.state}
        container.state = self.between
        if container.node is None:
            raise AssertionError(f"container {container.id} has no server")
        return container, container.node.name

    def _running(self, session: Session, op: Operation) -> None:
        container = session.get_one(Container, op.target_id)
        container.state, container.wanted, container.started_at, container.error = State.RUNNING, Wanted.RUNNING, now(), None

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        container = session.get_one(Container, op.target_id)
        if "state_before" not in op.args:
            return  # refused before anything was touched
        undone = error.code != "node_offline" and op.args["state_before"] == State.STOPPED and self.name == "start"
        container.state = State.STOPPED if undone else State.ERROR
        container.error = error.model_dump(mode="json")


class Start(_Power):
    """Bring a stopped container up on its server."""

    name = "start"
    between = State.STARTING

    def begin(self, session: Session, op: Operation) -> list[Step]:
        _, node = self._claim(session, op)
        return container_steps.bring_up(node)

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        self._running(session, op)


class Stop(_Power):
    """Ask init to end, kill what does not, and give everything back but the volume and the address."""

    name = "stop"
    between = State.STOPPING

    def begin(self, session: Session, op: Operation) -> list[Step]:
        _, node = self._claim(session, op)
        return container_steps.take_down(node, float(op.args.get("grace", GRACE)))

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        container.state, container.started_at, container.error = State.STOPPED, None, None


class Restart(_Power):
    """Stop, then start."""

    name = "restart"
    between = State.STARTING

    def begin(self, session: Session, op: Operation) -> list[Step]:
        _, node = self._claim(session, op)
        return [*container_steps.take_down(node, float(op.args.get("grace", GRACE))), *container_steps.bring_up(node)]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        self._running(session, op)
