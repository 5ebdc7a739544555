"""Promises that drivers of all contracts make."""

from __future__ import annotations

import inspect
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydantic import ValidationError

from hostler.contracts.driver import CONTRACT_VERSION
from hostler.core.errors import HostlerError, Unsupported
from hostler.testing.arenas.arena import Arena
from hostler.testing.subjects import Recipe
from hostler.testing.zygote import Call

WORKERS, PROCESSES = 8, 3
HOSTILE_NAMES = ("", "../stray", "a/../../stray", "stray/inner", "stray\0", "stray\n", "/stray", "x" * 300, "stray ünïcode", "-stray", ".stray", "str*y", "$(stray)")


@pytest.mark.promise("settings", "settings that it does not know are refused")
def test_unknown_settings(arena: Arena) -> None:
    host, key = arena.recipe.host, arena._key
    with pytest.raises(ValidationError):
        Recipe(arena.spec, replace(host, settings={key: host.settings[key] | {"no_such_setting": 1}})).make()


@pytest.mark.promise("inert", "making a driver object does nothing to the host")
def test_construction(arena: Arena) -> None:
    before, present = arena.traces(), arena.inventory()
    elsewhere = replace(arena.recipe.host, state_dir=arena.folder / "elsewhere")
    Recipe(arena.spec, elsewhere).make()
    assert not elsewhere.state_dir.exists()
    assert (arena.traces(), arena.inventory()) == (before, present)


@pytest.mark.promise("probe", "probe says what the host offers and lacks in words, changes nothing, takes under a second")
def test_probe(arena: Arena) -> None:
    before, present = arena.traces(), arena.inventory()
    with arena.inside():
        began = time.monotonic()
        probe = arena.recipe.make().probe()
        assert time.monotonic() - began < 1
    assert probe.usable, probe
    assert all(len(lack.what) > 3 for lack in probe.lacks)
    assert all(lack.remedy for lack in probe.lacks if lack.blocks)
    assert (arena.traces(), arena.inventory()) == (before, present)


@pytest.mark.promise("contract", "it keeps a contract that this platform has, and all verbs are there")
def test_contract(arena: Arena) -> None:
    assert arena.driver.contract_version <= CONTRACT_VERSION
    assert not inspect.isabstract(type(arena.driver))
    assert arena.driver.name and arena.driver.version


@pytest.mark.promise("twice", "every verb may be called twice, with the result of once")
def test_every_verb_twice(arena: Arena) -> None:
    for scene in arena.scenes():
        before = arena.inventory()
        arena.do_all(scene.before)
        arena.do(scene.call)
        once = arena.inventory()
        arena.do(scene.call)
        arena.do(scene.call, arena.recipe.make())
        assert arena.inventory() == once, f"{scene.verb}, called again, left something else"
        for call in scene.after:
            arena.do_all([call, call])
        assert arena.inventory() == before, f"something is left after {scene.verb} and what undoes it"


@pytest.mark.promise("setup", "setup and teardown may be called twice; what a server had is gone after teardown")
def test_setup_and_teardown(arena: Arena) -> None:
    with arena.inside():
        arena.driver.setup()
        arena.driver.setup()
        arena.recipe.make().teardown()
        arena.recipe.make().teardown()
        assert arena.inventory() == Counter()
        arena.recipe.make().setup()


@pytest.mark.promise("inventory", "inventory tells all that there is, and whose it is, to a worker that has just started")
def test_inventory(arena: Arena) -> None:
    for scene in arena.scenes():
        before = arena.inventory()
        arena.do_all(scene.before)
        arena.do(scene.call)
        owners = {owner for _, owner in arena.inventory()}
        if scene.owner:
            assert scene.owner in owners, f"inventory does not show what {scene.verb} made"
        arena.do_all(scene.after)
        left = arena.inventory() - before
        assert not left, f"inventory shows {left} after {scene.verb} was undone"


@pytest.mark.promise("traces", "when a thing is gone nothing of it is left on the host, whatever inventory says")
def test_traces(arena: Arena) -> None:
    for scene in arena.scenes():  # what the first use of a verb makes for good is no leak
        arena.do_all([*scene.before, scene.call, *scene.after])
    before = arena.traces()
    for scene in arena.scenes():
        arena.do_all([*scene.before, scene.call, *scene.after])
        left = arena.traces() - before
        assert not left, f"{scene.verb} left {sorted(left)}"


@pytest.mark.promise("kill", "a worker killed at any moment of a verb leaves what the same verb, called again, makes whole")
def test_killed_in_the_middle(arena: Arena) -> None:
    for scene in arena.scenes():
        before = arena.inventory()
        arena.do_all(scene.before)
        began = time.monotonic()
        arena.do(scene.call)
        lasts = time.monotonic() - began
        whole = arena.inventory()
        arena.do_all(scene.after)
        for _ in range(arena.kill_rounds):
            arena.do_all(scene.before)
            arena.zygote.killed(arena.recipe, [scene.call], random.uniform(0, 1.2 * lasts + 0.002))
            time.sleep(0 if arena.fake else arena.settling)
            arena.do(scene.call, arena.recipe.make())
            assert arena.inventory() == whole, f"after a death in {scene.verb} and {scene.verb} again"
            arena.do_all(scene.after)
            assert arena.inventory() == before, f"something is left after a death in {scene.verb}"


@pytest.mark.promise("together", "eight threads and three processes at once do no harm")
def test_many_at_once(arena: Arena) -> None:
    count = 1 if arena.one_thing else WORKERS
    for index in range(len(arena.scenes())):
        scenes = [arena.scenes(number)[index] for number in range(count)]
        before = arena.inventory()
        for scene in scenes:
            arena.do_all(scene.before)
            arena.do(scene.call)
        whole = arena.inventory()
        for scene in scenes:
            arena.do_all(scene.after)
        for scene in scenes:
            arena.do_all(scene.before)
        _at_once(arena, [scene.call for scene in scenes])
        assert arena.inventory() == whole, f"{scenes[0].verb} by many at once"
        for step in range(len(scenes[0].after)):
            _at_once(arena, [scene.after[step] for scene in scenes])
        assert arena.inventory() == before, f"something is left of {scenes[0].verb} by many at once"


def _at_once(arena: Arena, calls: list[Call]) -> None:
    """Threads share one driver object, as in a worker; processes have their own."""
    processes = [arena.zygote.start(arena.recipe, calls) for _ in range(PROCESSES if arena.one_thing else 0)]
    with ThreadPoolExecutor(WORKERS) as pool:
        asked = [pool.submit(arena.do, calls[worker % len(calls)]) for worker in range(WORKERS)]
    problems = [arena.zygote.end(pid) for pid in processes]
    for answer in asked:
        answer.result()
    assert not any(problems), "".join(problems)


@pytest.mark.promise("absent", "what does not exist is told as such, or is the success that was asked for")
def test_absent_things(arena: Arena) -> None:
    before = arena.inventory()
    for call, expected in arena.absent():
        if expected is None:
            arena.do(call)
            continue
        with pytest.raises(HostlerError) as raised:
            arena.do(call)
        assert isinstance(raised.value, expected), f"{call[0]} raised {type(raised.value).__name__}"
        assert raised.value.message and raised.value.hint, f"{call[0]} says too little: {raised.value!r}"
    assert arena.inventory() == before


@pytest.mark.promise("refusal", "what a false capability stands for is refused with words; it is never a lie that it is true")
def test_refusals(arena: Arena) -> None:
    can = arena.driver.capabilities.model_dump()
    for capability, calls in arena.refusals().items():
        before = arena.inventory()
        for call in calls:
            if can[capability]:
                _not_refused(arena, call)
                continue
            with pytest.raises(Unsupported) as raised:
                arena.do(call)
            assert raised.value.message and raised.value.hint
            assert arena.inventory() == before, f"{call[0]} was refused and left something"


def _not_refused(arena: Arena, call: Call) -> None:
    try:
        arena.do(call)
    except Unsupported as error:
        raise AssertionError(f"the capability is true, but {call[0]} is refused: {error}") from error
    except HostlerError:  # another state of things was needed: it is known, at least
        return


@pytest.mark.promise("names", "names that lead elsewhere, or are none, are refused in words and change nothing")
def test_hostile_names(arena: Arena) -> None:
    for name in HOSTILE_NAMES:
        before, present = arena.traces(), arena.inventory()
        for call in arena.hostile(name):
            with pytest.raises(HostlerError) as raised:
                arena.do(call)
            assert raised.value.message, call
        assert arena.traces() <= before, f"{name!r} left {sorted(arena.traces() - before)}"
        assert arena.inventory() == present, name


@pytest.mark.promise("full-disk", "where the node's own folder is full a verb succeeds or says so, leaves nothing, and what undoes it works")
def test_full_disk(arena: Arena) -> None:
    if not arena.apart:
        pytest.skip("the driver keeps more than records there, or nobody may mount a disk that can be filled")
    for scene in arena.scenes():  # what the first use of a verb makes for good is no leak
        arena.do_all([*scene.before, scene.call, *scene.after])
    for scene in arena.scenes():
        before, traces = arena.inventory(), arena.traces()
        arena.do_all(scene.before)
        with arena.filled():
            try:
                arena.do(scene.call)
            except HostlerError as error:
                assert error.message and error.hint, f"{scene.verb} says too little: {error!r}"
            arena.do_all(scene.after)
        arena.do_all(scene.after)
        assert arena.inventory() == before, f"something is left of {scene.verb} on a full disk"
        assert arena.traces() <= traces, f"{scene.verb} on a full disk left {sorted(arena.traces() - traces)}"
