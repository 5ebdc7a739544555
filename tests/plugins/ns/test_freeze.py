"""Frozen containers: nothing runs, everything is kept, and whatever is asked of one is answered."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from hostler.core.errors import Conflict
from hostler.host import cgroups, freezer, guest
from tests.plugins.ns.world import World, eventually

pytestmark = pytest.mark.lab

COUNT = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.01; done"


def counted(world: World, container: str) -> int:
    file = world.root_of(world.made[container]) / "tmp/count"
    return int((file.read_text() if file.exists() else "") or 0)


def test_nothing_runs_while_frozen_and_all_goes_on_after(world: World) -> None:
    spec = world.up("sh", "-c", COUNT)
    eventually(lambda: counted(world, spec.id) > 3)
    before = world.ns.inspect(spec.id)
    for _ in range(2):
        world.ns.freeze(spec.id)
        seen = world.ns.inspect(spec.id)
        assert (seen.state, seen.pid, seen.started_at) == ("frozen", before.pid, before.started_at)
    used, count = world.limits.usage(spec.id).cpu_ns, counted(world, spec.id)
    time.sleep(0.3)
    assert counted(world, spec.id) == count
    assert world.limits.usage(spec.id).cpu_ns == used
    for _ in range(2):
        world.ns.thaw(spec.id)
        assert world.ns.inspect(spec.id) == before
    eventually(lambda: counted(world, spec.id) > count + 3)
    assert world.sh(spec, "echo here").stdout == "here\n"


def test_exec_is_refused_in_words(world: World) -> None:
    spec = world.up("sleep", "1000")
    world.ns.freeze(spec.id)
    began = time.monotonic()
    with pytest.raises(Conflict, match="is frozen") as refused:
        world.sh(spec, "true")
    assert "thaw" in refused.value.hint
    assert time.monotonic() - began < 1
    assert world.limits.processes(spec.id) == [world.ns.inspect(spec.id).pid, *world.limits.processes(spec.id)[1:]]


def test_another_driver_object_sees_and_thaws_it(world: World) -> None:
    """As after a restart of the worker."""
    spec = world.up("sh", "-c", COUNT)
    world.ns.freeze(spec.id)
    other = world.driver(world.host)
    assert other.inspect(spec.id).state == "frozen"
    assert other.create(spec, world.root_plan(spec), world.limits.create(spec.id, spec.limits)).state == "frozen"
    other.thaw(spec.id)
    assert world.ns.inspect(spec.id).state == "running"


def test_a_signal_is_acted_on_when_thawed(world: World) -> None:
    spec = world.up("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.01; done")
    world.sh(spec, "true")
    world.ns.freeze(spec.id)
    world.ns.signal(spec.id, signal.SIGTERM)
    assert world.ns.wait(spec.id, 0.2).state == "frozen"
    world.ns.thaw(spec.id)
    assert world.ns.wait(spec.id, 5).state == "exited"


def test_a_frozen_one_is_deleted_and_runs_no_more(world: World) -> None:
    spec = world.up("sh", "-c", COUNT)
    eventually(lambda: counted(world, spec.id) > 3)
    world.ns.freeze(spec.id)
    count, began = counted(world, spec.id), time.monotonic()
    world.ns.delete(spec.id)
    assert time.monotonic() - began < 2
    assert counted(world, spec.id) == count
    assert world.ns.inspect(spec.id).state == "absent"
    assert world.limits.processes(spec.id) == []


def test_limits_remove_what_is_frozen(world: World) -> None:
    """Without the ns driver's help: as after a crash that has cost its record."""
    spec = world.up("sh", "-c", COUNT)
    world.ns.freeze(spec.id)
    began = time.monotonic()
    world.limits.remove(spec.id)
    assert time.monotonic() - began < 5
    assert world.limits.processes(spec.id) == []
    assert world.limits.inventory() == []


def test_a_lost_record_of_a_frozen_one_is_cleaned_up_by_create(world: World) -> None:
    spec = world.up("sleep", "1000")
    world.ns.freeze(spec.id)
    guest.remove_init(world.host, spec.id)
    sandbox, _ = world.create(spec)
    assert sandbox.state == "created"
    assert world.limits.processes(spec.id) == [sandbox.pid]


def test_only_a_running_one_can_be_frozen(world: World) -> None:
    spec = world.spec("sleep", "1000")
    for there in (False, True):
        if there:
            world.create(spec)
        with pytest.raises(Conflict, match="is not running"):
            world.ns.freeze(spec.id)
        world.ns.thaw(spec.id)
    world.ns.start(spec.id)
    assert world.ns.inspect(spec.id).state == "running"


def test_the_kernel_really_freezes(world: World) -> None:
    """The driver's word is checked against the cgroup's own file and the processes' state."""
    spec = world.up("sh", "-c", COUNT)
    folder = world.folder(spec, freezer.FREEZER)
    file, frozen, thawed = ("freezer.state", "FROZEN", "THAWED") if (folder / "freezer.state").exists() else ("cgroup.freeze", "1", "0")
    world.ns.freeze(spec.id)
    assert cgroups.read(folder, file) == frozen
    world.ns.thaw(spec.id)
    assert cgroups.read(folder, file) == thawed


# -- version 2, by value


def plain(tmp_path: Path, **files: str) -> dict[str, str]:
    for name, text in files.items():
        (tmp_path / f"cgroup.{name}").write_text(text)
    return {cgroups.UNIFIED: str(tmp_path)}


def test_version_2_is_frozen_when_its_events_say_so(tmp_path: Path) -> None:
    folders = plain(tmp_path, freeze="0\n", events="populated 1\nfrozen 1\n")
    assert freezer.frozen(folders) is False
    freezer.freeze(folders, 1)
    assert (tmp_path / "cgroup.freeze").read_text().startswith("1")
    assert freezer.frozen(plain(tmp_path, freeze="1\n")) is True
    freezer.thaw(folders)
    assert (tmp_path / "cgroup.freeze").read_text().startswith("0")


def test_version_2_is_let_go_when_it_does_not_come_to_a_halt(tmp_path: Path) -> None:
    folders = plain(tmp_path, freeze="0\n", events="populated 1\nfrozen 0\n")
    with pytest.raises(Exception, match="not all processes could be frozen"):
        freezer.freeze(folders, 0.05)
    assert (tmp_path / "cgroup.freeze").read_text().startswith("0")


def test_without_a_freezer_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no freezer"):
        freezer.freeze({cgroups.UNIFIED: str(tmp_path)}, 1)
    assert freezer.frozen({}) is False
    freezer.thaw({})
