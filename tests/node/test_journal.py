"""The journal's two promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.core.errors import ErrorReport, Stale
from hostler.core.messages import Direction, StepOutcome
from hostler.node.journal import Journal


def test_a_lower_fence_is_refused_even_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "one")
    journal.admit("web", 3)
    journal.admit("web", 3)
    journal.admit("db", 1)
    journal.close()
    again = Journal(tmp_path / "j", "two")
    with pytest.raises(Stale):
        again.admit("web", 2)
    again.admit("web", 4)
    again.close()


def test_a_finished_step_is_answered_and_a_failed_one_runs_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "one")
    assert journal.begin("op", 0, Direction.FORWARD, 1) == (None, None)
    journal.finish("op", Direction.FORWARD, StepOutcome(index=0, result={"pid": 7}))
    known, _ = journal.begin("op", 0, Direction.FORWARD, 2)
    assert known is not None and known.result == {"pid": 7}
    assert journal.begin("op", 0, Direction.UNDO, 2) == (None, None)
    journal.begin("op", 1, Direction.FORWARD, 2)
    journal.finish("op", Direction.FORWARD, StepOutcome(index=1, error=ErrorReport(code="x", message="y")))
    assert journal.begin("op", 1, Direction.FORWARD, 3)[0] is None
    journal.close()


def test_a_step_that_was_cut_off_is_known_by_who_began_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "one")
    journal.begin("op", 0, Direction.FORWARD, 1)
    journal.close()
    again = Journal(tmp_path / "j", "two")
    assert again.begin("op", 0, Direction.FORWARD, 2) == (None, "one")
    again.close()
