"""The step runner: takes a batch, runs its steps in order through the drivers, answers what came of it.

Batches on one target never overlap. While a batch runs, a ticker renews its lease by reporting that work goes on.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from hostler.core.errors import ErrorReport, HostFailure, HostlerError, Stale, Unavailable
from hostler.core.messages import Batch, Direction, Report, StepOrder, StepOutcome
from hostler.node.journal import Journal
from hostler.node.verbs import Server, Verb

log = structlog.get_logger()

#: Seconds between two reports that work goes on; a third of the shortest lease at most.
WORKING_EVERY = 3.0


class Runner:
    """Runs batches on one server. ``answer`` sends a report to the control side."""

    def __init__(self, server: Server, verbs: dict[str, Verb], journal: Journal, answer: Callable[[Report], None]) -> None:
        self.server = server
        self._verbs = verbs
        self._journal = journal
        self._answer = answer
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._locks_guard = threading.Lock()
        self._steps: set[tuple[str, int]] = set()
        self._working: dict[int, Report] = {}
        self._wake = threading.Event()
        threading.Thread(target=self._keep_leases, name="leases", daemon=True).start()

    def run(self, batch: Batch) -> Report:
        """Run a batch and answer. The report is returned too, for tests."""
        with structlog.contextvars.bound_contextvars(operation=batch.operation, target=batch.target, fence=batch.fence):
            report = self._run(batch)
            self._answer(report)
            return report

    def _run(self, batch: Batch) -> Report:
        report = Report(operation=batch.operation, node=batch.node, fence=batch.fence, direction=batch.direction, final=True)
        with self._reported(batch), self._alone(batch):
            if batch.exclusive:
                try:
                    self._journal.admit(batch.target, batch.fence)
                except Stale as error:
                    log.info("refused a stale batch", reason=error.message)
                    return report.model_copy(update={"refused": ErrorReport.of(error)})
                except sqlite3.Error as error:  # without a journal nothing may be begun
                    log.error("journal cannot be written", error=str(error))
                    report.outcomes.append(StepOutcome(index=batch.steps[0].index, error=ErrorReport.of(_journal_broken(error))))
                    return report
            for order in batch.steps:
                with self._once(batch, order) as first:
                    if not first:
                        busy = Stale("this runs here at this moment, for an earlier claim", hint="ask again: its outcome is told when it has ended")
                        return report.model_copy(update={"refused": ErrorReport.of(busy)})
                    outcome = self._step(batch, order)
                report.outcomes.append(outcome)
                if outcome.error is not None and batch.direction == Direction.FORWARD:
                    break
        return report

    def _step(self, batch: Batch, order: StepOrder) -> StepOutcome:
        began = time.monotonic()
        outcome = StepOutcome(index=order.index)
        try:
            known, begun_by = self._journal.begin(batch.operation, order.index, batch.direction, batch.fence)
            if known is not None:
                return known
            outcome.result = self._verb(order, begun_by)(self.server, batch, order.payload)
        except Exception as error:  # an outer edge: whatever went wrong is the step's outcome
            outcome.error = ErrorReport.of(_journal_broken(error) if isinstance(error, sqlite3.Error) else error)
            log.warning("step failed", step=order.name, verb=order.verb, code=outcome.error.code, error=outcome.error.message, traceback=outcome.error.traceback)
        outcome.ms = round((time.monotonic() - began) * 1000, 2)
        try:
            self._journal.finish(batch.operation, batch.direction, outcome)
        except sqlite3.Error as error:  # the step's effect stands; run again, it is the same
            log.error("journal cannot be written", error=str(error))
        log.info("step", step=order.name, verb=order.verb, direction=batch.direction.value, ms=outcome.ms, ok=outcome.error is None)
        return outcome

    def _verb(self, order: StepOrder, begun_by: str | None) -> Verb:
        verb = self._verbs.get(order.verb)
        if verb is None:
            raise HostlerError(f"this server does not know the step {order.verb}", hint="bring all servers to one version", code="unknown_step")
        if begun_by is not None and not verb.repeatable:
            raise Unavailable("the worker was restarted in the middle of this", hint="look at what it did, then ask again", code="interrupted")
        return verb

    @contextmanager
    def _once(self, batch: Batch, order: StepOrder) -> Iterator[bool]:
        """Whether this very step is not at work already. Exclusive batches wait for each other; a command that takes longer than
        the news of it was lost is asked for again while it runs."""
        key = (batch.operation, order.index)
        with self._locks_guard:
            first = key not in self._steps
            self._steps.add(key)
        try:
            yield first
        finally:
            if first:
                self._steps.discard(key)

    @contextmanager
    def _alone(self, batch: Batch) -> Iterator[None]:
        if not batch.exclusive:
            yield
            return
        with self._locks_guard:
            lock, users = self._locks.get(batch.target, (threading.Lock(), 0))
            self._locks[batch.target] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._locks_guard:
                lock, users = self._locks.pop(batch.target)
                if users > 1:
                    self._locks[batch.target] = (lock, users - 1)

    @contextmanager
    def _reported(self, batch: Batch) -> Iterator[None]:
        """While inside, the lease of the batch is renewed."""
        key = threading.get_ident()
        self._working[key] = Report(operation=batch.operation, node=batch.node, fence=batch.fence, direction=batch.direction, final=False)
        try:
            yield
        finally:
            del self._working[key]

    def _keep_leases(self) -> None:
        while not self._wake.wait(WORKING_EVERY):
            for report in list(self._working.values()):
                try:
                    self._answer(report)
                except Exception as error:  # the broker may be away: the lease then runs out, and the work is claimed again
                    log.warning("cannot renew a lease", operation=report.operation, error=str(error))

    def busy(self) -> int:
        """How many batches run now."""
        return len(self._working)

    def close(self) -> None:
        """Stop renewing leases."""
        self._wake.set()


def _journal_broken(error: Exception) -> HostFailure:
    return HostFailure(f"the server's journal cannot be written: {error}", hint="its disk may be full: hostler doctor on the server tells", code="journal_broken")
