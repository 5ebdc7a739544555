"""When a pre-copy ends, by value."""

from __future__ import annotations

import pytest

from hostler.mobility.rounds import ENOUGH, MOST, Round, verdict


def rounds(*pages: int) -> list[Round]:
    return [Round(count, 1.0) for count in pages]


def test_one_round_is_never_enough_to_tell() -> None:
    assert verdict(rounds(1)) is None
    assert verdict(rounds(1_000_000)) is None


def test_rounds_that_shrink_go_on_until_little_is_left() -> None:
    assert verdict(rounds(100_000, 50_000)) is None
    why = verdict(rounds(100_000, 50_000, ENOUGH // 4096))
    assert why is not None and "little" in why


def test_a_container_that_writes_as_fast_is_frozen_at_once() -> None:
    why = verdict(rounds(100_000, 50_000, 49_000))
    assert why is not None and "as fast" in why


@pytest.mark.parametrize("first", [10**9])
def test_rounds_end_whatever_happens(first: int) -> None:
    done = rounds(first)
    while verdict(done) is None:
        done.append(Round(int(done[-1].pages * 0.7), 1.0))
    assert len(done) == MOST
