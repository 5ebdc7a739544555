"""Promises of net drivers."""

from __future__ import annotations

from collections import Counter

import pytest

from hostler.core.errors import Conflict, HostlerError
from hostler.testing.arenas.net import NetArena


@pytest.mark.promise("attach-whole", "an attach that fails leaves no link and no rule")
def test_failed_attach(arena: NetArena) -> None:
    arena.do(("attach", ("c01", arena.link(1), arena.pid(1))))
    arena.do(("detach", ("c01",)))
    before, present = arena.traces(), arena.inventory()
    for pid in (0, -1):
        with pytest.raises(HostlerError) as raised:
            arena.do(("attach", ("c01", arena.link(1), pid)))
        assert raised.value.hint
        assert arena.inventory() == present
        assert arena.traces() <= before


@pytest.mark.promise("replace", "a link of the same name is replaced; others of the container stay")
def test_replaced(arena: NetArena) -> None:
    pid = arena.pid(1)
    arena.do(("attach", ("c01", arena.link(1), pid)))
    one = arena.inventory()
    arena.do(("attach", ("c01", arena.link(2), pid)))
    assert arena.inventory() == one
    arena.do(("detach", ("c01",)))
    if not arena.fake:
        assert arena.inner_links(1) == ["lo"]


@pytest.mark.promise("counters", "counters begin near zero, and are never negative")
def test_counters(arena: NetArena) -> None:
    arena.do(("attach", ("c01", arena.link(1), arena.pid(1))))
    with arena.inside():
        counted = arena.net.counters("c01")
    assert all(0 <= value < 100_000 for value in counted.model_dump().values())
    arena.do(("detach", ("c01",)))


@pytest.mark.promise("orphans", "links of a container whose process is gone are removed like any other")
def test_process_gone(arena: NetArena) -> None:
    before = arena.inventory()
    arena.do(("attach", ("c01", arena.link(1), arena.pid(1))))
    arena.clear_process(1)
    arena.do(("detach", ("c01",)))
    assert arena.inventory() == before


@pytest.mark.promise("rates", "rates that no wire has are set or refused in words, and the link goes on")
def test_strange_rates(arena: NetArena) -> None:
    arena.do(("attach", ("c01", arena.link(1), arena.pid(1))))
    present = arena.inventory()
    for rate in (0, 1, 10**9, 10**12, 2**63):
        try:
            arena.do(("shape", ("c01", rate, rate)))
        except HostlerError as error:
            assert error.message, rate
    arena.do(("shape", ("c01", None, None)))
    assert arena.inventory() - present == Counter()
    with arena.inside():
        arena.net.counters("c01")
    arena.do(("detach", ("c01",)))


@pytest.mark.promise("expected", "a container that is expected arrives, or does not, and nothing of the expectation is left; one that is here cannot be")
def test_expected(arena: NetArena) -> None:
    if not arena.net.capabilities.expect:
        pytest.skip("the driver keeps no packets for who is on the way")
    before, link, pid = arena.inventory(), arena.link(1), arena.pid(1)
    arena.do(("attach", ("c01", link, pid)))
    there = arena.inventory()
    with pytest.raises(Conflict) as raised:
        arena.do(("expect", ("c01", link)))
    assert raised.value.hint
    assert arena.inventory() == there
    arena.do(("detach", ("c01",)))
    arena.do_all([("expect", ("c01", link)), ("attach", ("c01", link, pid, True)), ("release", ("c01",))])
    assert arena.inventory() == there
    arena.do_all([("detach", ("c01",)), ("expect", ("c01", link)), ("detach", ("c01",))])
    assert arena.inventory() == before
