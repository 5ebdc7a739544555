"""The step runner with verbs of the test's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hostler.core.errors import Conflict
from hostler.core.messages import Batch, Direction, Report, StepOrder
from hostler.node import runner as runner_module
from hostler.node.journal import Journal
from hostler.node.runner import Runner
from hostler.node.verbs import Nothing, Server, Verb


class Recorder:
    """Verbs that write down that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.overlap = 0
        self._inside = 0
        self.pause = threading.Event()
        self.pause.set()

    def verb(self, name: str, *, error: Exception | None = None, repeatable: bool = True) -> Verb:
        """A verb that records, waits while paused, and then raises ``error``, if any."""

        def act(_server: Server, batch: Batch, _payload: Nothing) -> dict[str, Any]:
            self._inside += 1
            self.overlap = max(self.overlap, self._inside)
            self.ran.append(name)
            self.pause.wait(10)
            time.sleep(0.01)
            self._inside -= 1
            if error is not None:
                raise error
            return {"name": name}

        return Verb(name, Nothing, act, repeatable)


@pytest.fixture
def recorder() -> Recorder:
    """Fresh verbs."""
    return Recorder()


@pytest.fixture
def answers() -> list[Report]:
    """What the runner said."""
    return []


@pytest.fixture
def runner(tmp_path: Path, recorder: Recorder, answers: list[Report], monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """A runner with three verbs that work, one that fails and one that breaks."""
    monkeypatch.setattr(runner_module, "WORKING_EVERY", 0.05)
    verbs = [recorder.verb("a"), recorder.verb("b"), recorder.verb("once", repeatable=False)]
    verbs += [recorder.verb("refuse", error=Conflict("no", hint="wait")), recorder.verb("break", error=RuntimeError("bug"))]
    journal = Journal(tmp_path / "journal", "me")
    made = Runner(cast(Server, None), {verb.name: verb for verb in verbs}, journal, answers.append)
    yield made
    made.close()
    journal.close()


def batch(*verbs: str, operation: str = "op", fence: int = 1, direction: Direction = Direction.FORWARD, target: str = "web") -> Batch:
    """A batch of these verbs."""
    steps = [StepOrder(index=i, name=verb, verb=verb) for i, verb in enumerate(verbs)]
    return Batch(operation=operation, target=target, node="alpha", fence=fence, direction=direction, steps=steps)


def test_steps_run_in_order_and_a_failure_ends_the_batch(runner: Runner, recorder: Recorder, answers: list[Report]) -> None:
    report = runner.run(batch("a", "refuse", "b"))
    assert recorder.ran == ["a", "refuse"]
    assert [outcome.error.code if outcome.error else None for outcome in report.outcomes] == [None, "conflict"]
    assert answers[-1].final


def test_an_undo_goes_on_past_a_failure(runner: Runner, recorder: Recorder) -> None:
    runner.run(batch("a", "refuse", "b", direction=Direction.UNDO))
    assert recorder.ran == ["a", "refuse", "b"]


def test_a_bug_is_told_apart_and_keeps_its_traceback(runner: Runner) -> None:
    error = runner.run(batch("break")).outcomes[0].error
    assert error is not None and error.bug and error.code == "internal" and "RuntimeError: bug" in (error.traceback or "")


def test_an_unknown_verb_is_an_error_and_not_a_crash(runner: Runner) -> None:
    error = runner.run(batch("nonsense")).outcomes[0].error
    assert error is not None and error.code == "unknown_step"


def test_redelivery_runs_nothing_twice(runner: Runner, recorder: Recorder) -> None:
    first = runner.run(batch("a", "b"))
    second = runner.run(batch("a", "b", fence=2))
    assert recorder.ran == ["a", "b"]
    assert [outcome.result for outcome in second.outcomes] == [outcome.result for outcome in first.outcomes]


def test_a_stale_batch_is_refused(runner: Runner, recorder: Recorder) -> None:
    runner.run(batch("a", fence=5))
    report = runner.run(batch("b", operation="older", fence=4))
    assert report.refused is not None and report.refused.code == "stale" and recorder.ran == ["a"]


def test_batches_on_one_target_never_overlap_and_others_do(runner: Runner, recorder: Recorder) -> None:
    same = [threading.Thread(target=runner.run, args=(batch("a", "b", operation=f"o{i}"),)) for i in range(6)]
    for thread in same:
        thread.start()
    for thread in same:
        thread.join()
    assert recorder.overlap == 1
    recorder.pause.clear()
    others = [threading.Thread(target=runner.run, args=(batch("a", operation=f"p{i}", target=f"t{i}"),)) for i in range(3)]
    for thread in others:
        thread.start()
    deadline = time.monotonic() + 5
    while recorder.overlap < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    recorder.pause.set()
    for thread in others:
        thread.join()
    assert recorder.overlap == 3


def test_the_lease_is_renewed_while_a_step_runs(runner: Runner, recorder: Recorder, answers: list[Report]) -> None:
    recorder.pause.clear()
    thread = threading.Thread(target=runner.run, args=(batch("a"),))
    thread.start()
    deadline = time.monotonic() + 5
    while not answers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert answers and not answers[0].final and runner.busy() == 1
    recorder.pause.set()
    thread.join()
    assert answers[-1].final and runner.busy() == 0


def test_a_command_that_was_cut_off_is_not_run_again(tmp_path: Path, recorder: Recorder, answers: list[Report]) -> None:
    before = Journal(tmp_path / "cut", "dead worker")
    before.begin("op", 0, Direction.FORWARD, 1)
    before.close()
    journal = Journal(tmp_path / "cut", "new worker")
    fresh = Runner(cast(Server, None), {"once": recorder.verb("once", repeatable=False)}, journal, answers.append)
    error = fresh.run(batch("once", fence=2)).outcomes[0].error
    fresh.close()
    journal.close()
    assert error is not None and error.code == "interrupted" and recorder.ran == []


def test_a_command_that_still_runs_is_neither_run_twice_nor_called_interrupted(runner: Runner, recorder: Recorder) -> None:
    """Its claim was lost and made anew while it runs; the new claim hears of its end when it asks again."""
    recorder.pause.clear()
    first = batch("once").model_copy(update={"exclusive": False})
    again = first.model_copy(update={"fence": 2})
    thread = threading.Thread(target=runner.run, args=(first,))
    thread.start()
    deadline = time.monotonic() + 5
    while not recorder.ran and time.monotonic() < deadline:
        time.sleep(0.01)
    refused = runner.run(again)
    assert refused.refused is not None and refused.outcomes == []
    recorder.pause.set()
    thread.join()
    told = runner.run(again.model_copy(update={"fence": 3}))
    assert told.refused is None and told.outcomes[0].error is None
    assert recorder.ran == ["once"]
