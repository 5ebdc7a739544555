"""The witness of moves sees what it is there for."""

from __future__ import annotations

import threading

import pytest

from tests.lab.travel import Witness


class Seen(Witness):
    """A witness of which it is said what it saw."""

    def __init__(self, *moves: tuple[float, str, int]) -> None:
        threading.Thread.__init__(self)
        self.moves = list(moves)


@pytest.mark.parametrize(
    ("moves", "twice"),
    [
        ([(1, "alpha", 1), (2, "alpha", 2)], False),
        ([(1, "alpha", 1), (2, "beta", 1), (3, "beta", 2), (4, "beta", 3), (5, "beta", 4)], False),
        ([(1, "alpha", 1), (2, "beta", 1), (3, "beta", 2), (4, "alpha", 2)], False),  # the volume came, and the source goes on
        ([(1, "alpha", 1), (2, "beta", 1), (3, "beta", 2), (4, "beta", 3), (5, "alpha", 2)], True),
    ],
)
def test_a_source_that_runs_beside_the_target_is_seen(moves: list[tuple[float, str, int]], twice: bool) -> None:
    assert bool(Seen(*moves).ran_twice("alpha", "beta")) is twice
