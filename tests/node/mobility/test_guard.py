"""Containers that were frozen by a worker which then died: the watch lets them go on, unless they are not this server's any more."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.core.names import new_id
from hostler.core.specs import ContainerSpec
from hostler.host import guest
from hostler.host.pidfd import Identity
from hostler.node import drivers
from hostler.node.archives import Archives
from hostler.node.journal import Journal, journal_file
from hostler.node.mobility import guard, standstill
from hostler.node.verbs import Server
from hostler_plugins.ns.runc import Runc
from tests.node.test_watch import Heard, watching
from tests.plugins.ns.world import World, eventually

pytestmark = pytest.mark.lab

#: Freezes a container for operation ``move`` and does what its further words say, then waits to be killed.
WORKER = """
import sys, time
from pathlib import Path
from hostler.contracts.driver import Host
from hostler.core.specs import ContainerSpec
from hostler.node.journal import Journal, journal_file
from hostler.node.mobility import standstill
from tests.node.mobility.test_guard import server_of
installation, state, libexec, text, *words = sys.argv[1:]
host, spec = Host(installation, "alpha", Path(state), Path(libexec)), ContainerSpec.model_validate_json(text)
journal = Journal(journal_file(host), "worker")
server = server_of(host)
standstill.halt(server, spec, "move")
for word in words:
    if word == "hand-over":
        journal.hand_over(spec.id, "move", "peer")
    if word == "hand-over-earlier":
        journal.hand_over(spec.id, "another", "peer")
    if word == "stay":
        standstill.stay(server, spec)
print("halted", flush=True)
time.sleep(60)
"""


def server_of(host: Host) -> Server:
    """A server that has the ns drivers, and whose watch is told."""
    archives = Archives(host.state_dir / "scratch", list)
    return Server(host, drivers.load_classes(host, [Runc]), archives, nudge=lambda container: guest.nudge(host, container))


def counting(world: World) -> ContainerSpec:
    """A running container that writes numbers to a file of its own."""
    spec = world.spec("sh", "-c", "n=0; while :; do n=$((n+1)); echo $n > /count; usleep 5000; done")
    spec = spec.model_copy(update={"drivers": spec.drivers.model_copy(update={"ns": world.driver.name})})
    world.made[spec.id] = spec
    world.create(spec)
    world.ns.start(spec.id)
    eventually(lambda: (world.root_of(spec) / "count").exists())
    return spec


@contextlib.contextmanager
def frozen_by(world: World, spec: ContainerSpec, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that has frozen the container; dead afterwards."""
    command = [sys.executable, "-c", WORKER, world.host.installation, str(world.host.state_dir), str(world.host.libexec), spec.model_dump_json(), *words]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    try:
        assert worker.stdout is not None
        assert any(line == "halted\n" for line in worker.stdout), "the worker did not freeze the container"
        yield worker
    finally:
        worker.kill()
        worker.communicate()


def settle(world: World, container: str) -> bool:
    return guard.settle(world.host, container, lambda group, name: drivers.load_one(world.host, group, name))


def goes_on(world: World, spec: ContainerSpec, seconds: float = 3) -> bool:
    """Whether its processes run."""
    file = world.root_of(spec) / "count"
    before, deadline = file.read_text(), time.monotonic() + seconds
    while file.read_text() == before and time.monotonic() < deadline:
        time.sleep(0.005)
    return file.read_text() != before


def stands(world: World, spec: ContainerSpec) -> bool:
    """Whether they stand still."""
    return not goes_on(world, spec, 0.2)


def test_it_goes_on_within_a_second_of_the_workers_death(world: World) -> None:
    spec = counting(world)
    with watching(world, Heard()), frozen_by(world, spec) as worker:
        assert stands(world, spec)
        worker.kill()
        began = time.monotonic()
        file = world.root_of(spec) / "count"
        before = file.read_text()
        eventually(lambda: file.read_text() != before, 3)
        print(f"\ngoes on {(time.monotonic() - began) * 1000:.0f} ms after the worker was killed")
        assert time.monotonic() - began < 2
        eventually(lambda: not standstill.still_file(world.host, spec.id).exists())


def test_a_living_worker_is_left_alone(world: World) -> None:
    spec = counting(world)
    with watching(world, Heard()), frozen_by(world, spec):
        time.sleep(1.1)
        assert stands(world, spec)
        assert settle(world, spec.id) is False


def test_a_watch_that_starts_later_does_it_too(world: World) -> None:
    spec = counting(world)
    with frozen_by(world, spec):
        pass
    assert stands(world, spec)
    with watching(world, Heard()):
        eventually(lambda: world.ns.inspect(spec.id).state == "running", 3)
    assert goes_on(world, spec)


@pytest.mark.parametrize("word", ["hand-over", "stay"])
def test_what_was_handed_over_or_is_on_disk_stays_frozen(world: World, word: str) -> None:
    spec = counting(world)
    with watching(world, Heard()):
        with frozen_by(world, spec, word):
            pass
        time.sleep(1.1)
        assert world.ns.inspect(spec.id).state == "frozen"
        assert stands(world, spec)
        assert standstill.still_file(world.host, spec.id).exists()


def test_a_hand_over_of_another_operation_is_none(world: World) -> None:
    """Handed over once, it came back, and the journal of that time has nothing to say; nor may it keep a container frozen."""
    spec = counting(world)
    with frozen_by(world, spec, "hand-over-earlier"):
        pass
    assert settle(world, spec.id) is True
    assert goes_on(world, spec)


def test_without_the_journals_word_nothing_is_done(world: World) -> None:
    spec = counting(world)
    with frozen_by(world, spec):
        pass
    for file in world.host.state_dir.glob("journal.sqlite3*"):
        file.write_bytes(b"this is no database, and was one" * 200)
    with watching(world, Heard()):
        time.sleep(1.1)
        assert world.ns.inspect(spec.id).state == "frozen"
        for file in world.host.state_dir.glob("journal.sqlite3*"):
            file.unlink()
        Journal(journal_file(world.host), "mended").close()
        eventually(lambda: world.ns.inspect(spec.id).state == "running", 3)


def test_worker_and_watch_may_both_act(world: World) -> None:
    spec = counting(world)
    server = server_of(world.host)
    with frozen_by(world, spec):
        pass
    standstill.go_on(server, spec)
    assert settle(world, spec.id) is False
    standstill.go_on(server, spec)
    assert goes_on(world, spec)


def test_a_new_standstill_is_not_ended_for_the_old_workers_sake(world: World) -> None:
    """The watch that learns late of a worker's death finds another that answers for the container."""
    spec = counting(world)
    with frozen_by(world, spec):
        pass
    standstill.halt(server_of(world.host), spec, "another")
    assert settle(world, spec.id) is False
    assert stands(world, spec)
    standstill.go_on(server_of(world.host), spec)


def test_a_container_that_is_gone_has_no_standstill(world: World) -> None:
    assert settle(world, new_id()) is False


def test_a_pid_that_is_somebody_elses_now_answers_for_nothing(world: World) -> None:
    spec = counting(world)
    standstill.halt(server_of(world.host), spec, "move")
    still = standstill.read_still(world.host, spec.id)
    assert still is not None and still.worker.alive()
    file = standstill.still_file(world.host, spec.id)
    file.write_text(still.model_copy(update={"started_at": still.started_at - 1}).model_dump_json())
    assert Identity(still.pid, still.started_at).alive()
    assert settle(world, spec.id) is True
    assert goes_on(world, spec)
