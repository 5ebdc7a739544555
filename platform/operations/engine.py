"""The engine: moves operations forward, and nothing else writes their state.

Each public method of :class:`Engine` is one store transaction that takes an operation from one durable state to the next,
and then sends what that state calls for. If the process dies between commit and send, the lease in the row runs out
and :meth:`Engine.tick` claims the operation again with a higher fence; a message that was sent
twice is refused by the server's journal or answered from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport, HostlerError, Unavailable
from hostler.core.messages import Batch, Direction, Report, StepOrder, now
from hostler.core.specs import ContainerSpec
from hostler.operations.kind import Kind
from hostler.operations.steps import (
    Step,
    StepState,
    dump,
    load,
    next_run,
    only_tidying,
    progress,
    settled,
    undo_run,
)
from hostler.operations.unasked import OPEN, stop_if_ended
from hostler.store.engine import ATTEMPTS, Store, is_conflict
from hostler.store.events import add_event
from hostler.store.models import Container, Node, Operation

log = structlog.get_logger()

#: How long an operation waits for a server that went offline before it gives up.
PATIENCE = timedelta(seconds=30)
#: Servers say that they are at work more often than this.
RENEWAL = timedelta(seconds=4)
#: A queued operation that was not looked at for so long is looked at again.
QUEUE_GRAIN = timedelta(seconds=5)


@dataclass
class Outbox:
    """What to send once the transaction is committed."""

    batches: list[Batch] = field(default_factory=list)
    advance: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


class Engine:
    """Operations on one store. ``send`` gives a batch to its server, ``look_at`` asks for another
    :meth:`advance`, ``announce`` tells watchers that an operation's row has changed."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, Kind],
        send: Callable[[Batch], None],
        look_at: Callable[[str], None],
        announce: Callable[[str], None],
    ) -> None:
        self.store = store
        self.kinds = kinds
        self._send = send
        self._look_at = look_at
        self._announce = announce

    # --- the four ways in ---

    def advance(self, operation: str) -> None:
        """Look at an operation: begin it if its turn has come, claim it again if its lease ran out."""
        self._transact(operation, self._advance)

    def report(self, report: Report) -> None:
        """Take a server's word on a batch."""
        self._transact(report.operation, lambda session, op, out: self._hear(session, op, report, out))

    def tick(self) -> int:
        """Look at every open operation whose lease has run out; how many there were."""
        with self.store.read() as session:
            due = session.scalars(
                select(Operation.id)
                .where(Operation.state.in_(OPEN), (Operation.lease_until < now()) | Operation.lease_until.is_(None))
                .order_by(Operation.created_at)
                .limit(500)
            ).all()
        for operation in due:
            self.advance(operation)
        return len(due)

    def node_restarted(self, node: str) -> None:
        """A server's worker has started anew: what it was doing is claimed again at once."""
        with self.store.write() as session:
            lost = session.scalars(
                select(Operation).where(Operation.state.in_(("running", "undoing")), Operation.node_name == node).with_for_update()
            ).all()
            for op in lost:
                op.lease_until = now()
            ids = [op.id for op in lost]
        for operation in ids:
            self.advance(operation)

    def control_restarted(self) -> None:
        """A control worker has started: reports that its forerunner took along will not come again. What is not heard of within
        :data:`RENEWAL` is claimed anew, not only when its lease has run out in full."""
        soon = now() + RENEWAL
        with self.store.write() as session:
            session.execute(
                update(Operation).where(Operation.state.in_(("running", "undoing")), Operation.lease_until > soon).values(lease_until=soon)
            )

    # --- one transaction ---

    def _transact(self, operation: str, act: Callable[[Session, Operation, Outbox], None]) -> None:
        for attempt in range(ATTEMPTS):
            out = Outbox()
            try:
                with self.store.write() as session:
                    op = session.scalar(select(Operation).where(Operation.id == operation).with_for_update())
                    if op is None:
                        log.warning("operation unknown", operation=operation)
                        return
                    act(session, op, out)
                    out.changed.append(op.id)
            except Exception as error:
                if is_conflict(error) and attempt < ATTEMPTS - 1:
                    continue  # lost a race for an address, a slot or a name: plan again
                raise
            self._deliver(out)
            return

    def _deliver(self, out: Outbox) -> None:
        for batch in out.batches:
            self._send(batch)
        for operation in out.advance:
            self._look_at(operation)
        for operation in out.changed:
            self._announce(operation)

    def _advance(self, session: Session, op: Operation, out: Outbox) -> None:
        if op.state == "queued":
            self._begin(session, op, out)
        elif op.state in ("running", "undoing") and (op.lease_until is None or op.lease_until <= now()):
            self._claim_again(session, op, out)

    def _begin(self, session: Session, op: Operation, out: Outbox) -> None:
        earlier = _earlier(session, op)
        op.waits_for = earlier
        op.lease_until = now() + QUEUE_GRAIN
        if earlier is not None:
            return
        op.started_at = now()
        if op.cancel_asked:
            self.kinds[op.kind].failed(session, op, _cancelled())
            self._end(session, op, out, "cancelled")
            return
        try:
            with session.begin_nested():
                steps = self.kinds[op.kind].begin(session, op)
                session.flush()
        except HostlerError as error:
            self._refused(session, op, error, out)
            return
        op.steps, op.state = dump(steps), "running"
        _claim(session, op)
        self._dispatch(session, op, steps, out)

    def _refused(self, session: Session, op: Operation, error: HostlerError, out: Outbox) -> None:
        op.error = ErrorReport.of(error).model_dump(mode="json")
        self.kinds[op.kind].failed(session, op, ErrorReport.of(error))
        self._end(session, op, out, "failed")

    def _claim_again(self, session: Session, op: Operation, out: Outbox) -> None:
        steps = load(op.steps)
        node = session.scalar(select(Node).where(Node.name == op.node_name))
        if node is not None and node.state == "offline":
            if (node.seen_at is None or now() - node.seen_at > PATIENCE) and not _awaited(steps):
                self._give_up(session, op, steps, node, out)
                return
            op.lease_until = now() + QUEUE_GRAIN
            return
        _claim(session, op)
        self._dispatch(session, op, steps, out)

    def _give_up(self, session: Session, op: Operation, steps: list[Step], node: Node, out: Outbox) -> None:
        """The server went away in the middle: what it holds is reaped when it comes back (see workers/control_side.py)."""
        if op.state == "running" and only_tidying(steps):
            self._conclude(session, op, steps, out)
            return
        error = Unavailable(
            f"server {node.name} went offline while this was under way",
            hint=f"what was left on it is cleaned up when it is back; hostler node show {node.name} tells more",
            code="node_offline",
        )
        op.error = op.error or ErrorReport.of(error).model_dump(mode="json")
        op.steps = dump(steps)
        self.kinds[op.kind].failed(session, op, ErrorReport.model_validate(op.error))
        self._end(session, op, out, "failed")

    # --- forward and back ---

    def _dispatch(self, session: Session, op: Operation, steps: list[Step], out: Outbox) -> None:
        """Send what comes next in the direction that the operation has; end it when nothing does."""
        forward = op.state == "running"
        if forward and op.cancel_asked and not settled(steps) and any(step.state == StepState.PENDING for step in steps):
            self._turn_back(session, op, steps, _cancelled(), out)
            return
        run = next_run(steps) if forward else undo_run(steps)
        if not run:
            self._conclude(session, op, steps, out)
            return
        direction = Direction.FORWARD if forward else Direction.UNDO
        orders = [_order(index, steps[index], direction) for index in run]
        for index in run:
            steps[index].state = StepState.RUNNING if forward else StepState.UNDOING
        op.steps, op.node_name = dump(steps), steps[run[0]].node
        op.lease_until = now() + timedelta(seconds=self.kinds[op.kind].lease)
        out.batches.append(
            Batch(
                operation=op.id,
                target=op.target_id,
                node=op.node_name,
                fence=op.fence,
                direction=direction,
                exclusive=op.exclusive,
                spec=ContainerSpec.model_validate(op.spec) if op.spec else None,
                good_for=self.kinds[op.kind].lease,
                steps=orders,
            )
        )

    def _turn_back(self, session: Session, op: Operation, steps: list[Step], error: ErrorReport, out: Outbox) -> None:
        op.error = error.model_dump(mode="json")
        op.state = "undoing"
        _claim(session, op)
        self._dispatch(session, op, steps, out)

    def _conclude(self, session: Session, op: Operation, steps: list[Step], out: Outbox) -> None:
        op.steps = dump(steps)
        if op.state == "running":
            op.progress = 1.0
            self.kinds[op.kind].succeeded(session, op, steps)
            self._end(session, op, out, "done")
            return
        error = ErrorReport.model_validate(op.error)
        stuck = any(step.state == StepState.UNDO_FAILED for step in steps)
        other = [] if stuck else self.kinds[op.kind].instead(session, op, error)
        if other:
            for step in steps:
                step.state = StepState.UNDONE if step.state == StepState.PENDING else step.state
            op.state, op.error = "running", None
            _claim(session, op)
            self._dispatch(session, op, [*steps, *other], out)
            return
        self.kinds[op.kind].failed(session, op, error)
        self._end(session, op, out, "needs_attention" if stuck else "cancelled" if error.code == "cancelled" else "failed")

    def _end(self, session: Session, op: Operation, out: Outbox, state: str) -> None:
        op.state, op.ended_at, op.lease_until, op.waits_for = state, now(), None, None
        if op.kind != "exec" or state != "done":
            _log_end(session, op)
        session.flush()
        if op.exclusive and (container := session.get(Container, op.target_id)) is not None:
            stop_if_ended(session, container)  # it stands in line now, and is found at once
        waiting = session.scalar(
            select(Operation.id)
            .where(Operation.target_id == op.target_id, Operation.state == "queued")
            .order_by(Operation.created_at, Operation.id)
            .limit(1)
        )
        if waiting is not None:
            out.advance.append(waiting)

    # --- what servers say ---

    def _hear(self, session: Session, op: Operation, report: Report, out: Outbox) -> None:
        expected = {"running": Direction.FORWARD, "undoing": Direction.UNDO}.get(op.state)
        if report.fence != op.fence or report.direction != expected:
            log.info("late report", operation=op.id, fence=report.fence, claimed=op.fence, state=op.state)
            return
        steps = load(op.steps)
        for outcome in report.outcomes:
            _note_outcome(steps[outcome.index], report.direction, outcome.result, outcome.error, outcome.ms)
        op.steps, op.progress = dump(steps), progress(steps) if op.state == "running" else op.progress
        op.lease_until = now() + timedelta(seconds=self.kinds[op.kind].lease)
        if report.refused is not None:
            op.lease_until = now()  # claimed anew, with a higher fence, at the next tick
        elif report.final:
            failed = next((step.error for step in steps if step.state == StepState.FAILED and step.error and not step.afterwards), None)
            if failed is not None and op.state == "running":
                self._turn_back(session, op, steps, failed, out)
            else:
                self._dispatch(session, op, steps, out)


def _awaited(steps: list[Step]) -> bool:
    """Whether a step is under way whose end only its server knows."""
    return any(step.awaited and step.state in (StepState.RUNNING, StepState.UNDOING) for step in steps)


def _earlier(session: Session, op: Operation) -> str | None:
    """The open exclusive operation on the same target that came before, if any."""
    if not op.exclusive:
        return None
    return session.scalar(
        select(Operation.id)
        .where(
            Operation.target_id == op.target_id,
            Operation.exclusive.is_(True),
            Operation.state.in_(OPEN),
            Operation.id != op.id,
            (Operation.created_at < op.created_at) | ((Operation.created_at == op.created_at) & (Operation.id < op.id)),
        )
        .order_by(Operation.created_at.desc())
        .limit(1)
    )


def _claim(session: Session, op: Operation) -> None:
    """Take the next fencing number: of the container for an operation on one, else the operation's own."""
    container = session.get(Container, op.target_id, with_for_update=True) if op.target_kind == "container" and op.exclusive else None
    if container is None:
        op.fence += 1
        return
    container.fence += 1
    op.fence = container.fence


def _order(index: int, step: Step, direction: Direction) -> StepOrder:
    if direction == Direction.FORWARD:
        return StepOrder(index=index, name=step.name, verb=step.verb, payload=step.payload)
    return StepOrder(index=index, name=step.name, verb=step.undo or "", payload=step.undo_payload)


def _note_outcome(step: Step, direction: Direction, result: dict[str, object] | None, error: ErrorReport | None, ms: float) -> None:
    if direction == Direction.FORWARD:
        step.state = StepState.FAILED if error else StepState.DONE
        step.result, step.error, step.ms = result, error, ms
    else:
        step.state = StepState.UNDO_FAILED if error else StepState.UNDONE
        step.error = error or step.error


def _cancelled() -> ErrorReport:
    return ErrorReport(code="cancelled", message="cancelled on request", hint="what had been done was undone", status=409)


def _log_end(session: Session, op: Operation) -> None:
    container = session.get(Container, op.target_id) if op.target_kind == "container" else None
    took = f" in {(op.ended_at - op.created_at).total_seconds():.2f} s" if op.ended_at and op.state == "done" else ""
    why = f": {op.error['message']}" if op.error else ""
    event = add_event(
        session,
        f"operation_{op.state}",
        f"{op.kind} {op.target_name} {op.state.replace('_', ' ')}{took}{why}",
        account=op.account_id,
        container=container,
        operation=op.id,
        node=op.node_name,
    )
    if container is None and op.target_kind == "container":
        event.container_id, event.container_name = op.target_id, op.target_name
