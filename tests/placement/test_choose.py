"""Placement by value."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.core.errors import NoRoom
from hostler.core.limits import Limits
from hostler.placement.choose import Candidate, Overcommit, choose, refusal

GIB = 1 << 30
DRIVERS = frozenset({"ns:runc", "net:bridge", "storage:btrfs", "storage:overlay", "limits:cgroup1"})
EMPTY = Candidate("alpha", True, 4, 8 * GIB, 100 * GIB, 0, 0, 0, DRIVERS)


def test_the_emptier_server_wins_and_every_server_has_a_reason() -> None:
    busy = replace(EMPTY, name="beta", memory_promised=6 * GIB)
    off = replace(EMPTY, name="gamma", online=False)
    choice = choose([busy, off, EMPTY], Limits(cpu=1, memory=GIB, disk=GIB), {})
    assert choice.node == "alpha"
    assert set(choice.reasons) == {"alpha", "beta", "gamma"} and choice.reasons["gamma"] == "is offline"


def test_ties_go_by_name() -> None:
    assert choose([replace(EMPTY, name="b"), replace(EMPTY, name="a")], Limits(), {}).node == "a"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(cpu=5), "has 4 CPUs, 5 are asked for"),
        (Limits(memory=9 * GIB), "has 8G of memory left, 9G are asked for"),
        (Limits(disk=201 * GIB), "has 200G of disk left, 201G are asked for"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(limits: Limits, words: str) -> None:
    assert refusal(EMPTY, limits, Overcommit()) == words
    with pytest.raises(NoRoom, match="alpha has"):
        choose([EMPTY], limits, {})


def test_drivers_are_chosen_by_plan_then_by_preference() -> None:
    assert choose([EMPTY], Limits(), {}).drivers.storage == "btrfs"
    assert choose([EMPTY], Limits(), {"storage": "overlay"}).drivers.storage == "overlay"
    with pytest.raises(NoRoom, match="no usable storage driver zfs"):
        choose([EMPTY], Limits(), {"storage": "zfs"})


def test_no_server_at_all_is_said() -> None:
    with pytest.raises(NoRoom, match="there is no server at all"):
        choose([], Limits(), {})


@given(st.lists(st.tuples(st.integers(0, 8 * GIB), st.booleans()), max_size=6), st.integers(4 << 20, 9 * GIB))
def test_memory_is_never_oversold(servers: list[tuple[int, bool]], memory: int) -> None:
    candidates = [replace(EMPTY, name=f"n{i}", memory_promised=used, online=online) for i, (used, online) in enumerate(servers)]
    try:
        chosen = choose(candidates, Limits(memory=memory), {}).node
    except NoRoom:
        assert all(not c.online or c.memory_promised + memory > c.memory for c in candidates)
        return
    winner = next(c for c in candidates if c.name == chosen)
    assert winner.online and winner.memory_promised + memory <= winner.memory
