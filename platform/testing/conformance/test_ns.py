"""Promises of ns drivers."""

from __future__ import annotations

import time

import pytest

from hostler.core.errors import Conflict, Invalid
from hostler.core.specs import ExecSpec
from hostler.testing.arenas.ns import NsArena


@pytest.mark.promise("life", "absent, created, running, exited, absent: what inspect tells is true at every moment, to any worker")
def test_life(arena: NsArena) -> None:
    container = arena.container_spec(1).id
    assert arena.ns.inspect(container).state == "absent"
    made = arena.do(arena.making(1))
    seen = arena.ns.inspect(container)
    assert made == seen and seen.state == "created" and seen.pid and seen.started_at is not None
    arena.ns.start(container)
    again = arena.recipe.make()
    assert (arena.do(("inspect", (container,)), again)) == seen.model_copy(update={"state": "running"})
    arena.ns.signal(container, 9)
    assert arena.ns.wait(container, 5).state == "exited"
    arena.ns.delete(container)
    assert arena.ns.inspect(container).state == "absent"
    arena.ns.forget(container)


@pytest.mark.promise("again", "a sandbox that exited is made anew by create")
def test_again(arena: NsArena) -> None:
    container, call = arena.container_spec(1).id, arena.making(1)
    arena.do(call)
    arena.ns.start(container)
    arena.ns.signal(container, 9)
    arena.ns.wait(container, 5)
    arena.do(call)
    assert arena.ns.inspect(container).state == "created"
    arena.ns.forget(container)


@pytest.mark.promise("exec", "exec tells output and exit code, keeps its limits of output and time, and refuses what cannot be started")
def test_exec(arena: NsArena) -> None:
    if not arena.ns.capabilities.exec:
        pytest.skip("the driver cannot exec")
    container = arena.container_spec(1).id
    arena.do(arena.making(1))
    with pytest.raises(Conflict):
        arena.ns.exec(container, ExecSpec(args=("true",)))
    arena.ns.start(container)
    said = arena.ns.exec(container, ExecSpec(args=("echo", "grüße", "名前")))
    assert (said.exit_code, said.stdout, said.truncated) == (0, "grüße 名前\n", False)
    assert arena.ns.exec(container, ExecSpec(args=("false",))).exit_code == 1
    assert arena.ns.exec(container, ExecSpec(args=("cat",), stdin="given")).stdout == "given"
    cut = arena.ns.exec(container, ExecSpec(args=("echo", "x" * 5000), output_limit=100))
    assert cut.truncated and len(cut.stdout) <= 100
    began = time.monotonic()
    late = arena.ns.exec(container, ExecSpec(args=("sleep", "30"), timeout=0.3))
    assert late.timed_out and time.monotonic() - began < 5
    with pytest.raises(Invalid) as raised:
        arena.ns.exec(container, ExecSpec(args=("no-such-program",)))
    assert raised.value.message
    arena.ns.forget(container)


@pytest.mark.promise("ends", "delete ends every process, and its cgroup is then empty")
def test_ends(arena: NsArena) -> None:
    container = arena.container_spec(1).id
    arena.do(arena.making(1))
    arena.ns.start(container)
    assert arena.limits.processes(container)
    arena.ns.delete(container)
    assert arena.limits.processes(container) == []
    arena.ns.forget(container)


@pytest.mark.promise("freeze", "frozen is seen as such, and thawed goes on")
def test_freeze(arena: NsArena) -> None:
    if not arena.ns.capabilities.freeze:
        pytest.skip("the driver cannot freeze")
    container = arena.container_spec(1).id
    arena.do(arena.making(1))
    arena.ns.start(container)
    arena.ns.freeze(container)
    assert arena.ns.inspect(container).state == "frozen"
    arena.ns.thaw(container)
    arena.until(container, "running")
    arena.ns.forget(container)
