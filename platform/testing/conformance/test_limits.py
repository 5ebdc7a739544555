"""Promises of limits drivers."""

from __future__ import annotations

import pytest

from hostler.core.limits import Limits
from hostler.core.units import MIB
from hostler.testing.arenas.limits import SOME, LimitsArena


@pytest.mark.promise("members", "who is in the cgroup is known, counted and ended by remove")
def test_members(arena: LimitsArena) -> None:
    cgroup = arena.limits.create("c01", SOME)
    pid = arena.sleeper(cgroup)
    assert arena.limits.processes("c01") == [pid]
    assert arena.limits.usage("c01").pids == 1
    arena.limits.create("c01", SOME)
    assert arena.limits.processes("c01") == [pid], "create, called again, lost who was in it"
    arena.limits.remove("c01")
    assert not arena.alive(pid)
    assert arena.limits.processes("c01") == []


@pytest.mark.promise("accounts", "containers of one account come and go in each other's midst; one made before without an account is found again")
def test_accounts(arena: LimitsArena) -> None:
    before = arena.inventory()
    arena.limits.create("c01", SOME, "acc0")
    cgroup = arena.limits.create("c02", SOME, "acc0", 200)
    pid = arena.sleeper(cgroup)
    arena.limits.create("c03", SOME, "acc1")
    arena.limits.remove("c01")
    assert arena.limits.processes("c02") == [pid], "with a container of the account, another one's processes were ended"
    assert arena.limits.create("c02", SOME, "acc0") == cgroup
    plain = arena.limits.create("c04", SOME)
    assert arena.limits.create("c04", SOME, "acc0") == plain, "a container that was made without an account lost its cgroup"
    for container in ("c02", "c03", "c04"):
        arena.limits.apply(container, SOME)
        arena.limits.remove(container)
    assert arena.inventory() == before


@pytest.mark.promise("ranges", "limits at the ends of what may be asked for are set, or refused in words with the former ones kept")
def test_ends_of_the_range(arena: LimitsArena) -> None:
    for limits in (Limits(), Limits(memory=4 * MIB, pids=4, cpu=0.01), Limits(memory=2**50, pids=4_000_000, cpu_weight=10000, io_weight=1000), Limits(cpus="0")):
        arena.limits.create("c01", SOME)
        arena.limits.apply("c01", limits)
        arena.limits.usage("c01")
        arena.limits.remove("c01")
    assert "c01" not in {owner for _, owner in arena.inventory()}


@pytest.mark.promise("counters", "counters begin near zero, and are never negative")
def test_counters(arena: LimitsArena) -> None:
    arena.limits.create("c01", SOME)
    usage = arena.limits.usage("c01")
    assert all(value >= 0 for value in usage.model_dump().values() if isinstance(value, (int, float)))
    assert (usage.pids, usage.oom_kills, arena.limits.oom_kills("c01")) == (0, 0, 0)
