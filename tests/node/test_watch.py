"""The watch: output, exits and memory kills of real containers, and what happens when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hostler.core.errors import Conflict, Unavailable
from hostler.core.limits import Limits
from hostler.core.messages import ContainerEvent
from hostler.core.specs import ContainerSpec
from hostler.host import guest
from hostler.node import watch as watch_module
from hostler.node.kernel_log import Kill, parse
from hostler.node.logs import LogStore
from hostler.node.watch import Watch
from hostler.node.watched import Bucket, exit_message, kill_message
from tests.plugins.ns.world import World, eventually

HOG = "a=x; while :; do a=$a$a; done"


class Heard:
    """Receiver of events; ``deaf`` makes it refuse them."""

    def __init__(self) -> None:
        self.events: list[ContainerEvent] = []
        self.deaf = False

    def __call__(self, event: ContainerEvent) -> None:
        if self.deaf:
            raise Unavailable("nobody listens", hint="wait")
        self.events.append(event)

    def of(self, spec: ContainerSpec, kind: str) -> list[ContainerEvent]:
        return [event for event in self.events if event.container == spec.id and event.kind == kind]


@contextlib.contextmanager
def watching(world: World, heard: Heard) -> Iterator[Watch]:
    watch = Watch(world.host, heard)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        eventually(lambda: guest.watch_socket(world.host).exists())
        yield watch
    finally:
        watch.stop()
        thread.join(10)
        assert not thread.is_alive()


def output(world: World, spec: ContainerSpec) -> list[str]:
    return [line.text for line in LogStore(guest.log_dir(world.host, spec.id)).read().lines]


# -- pure


def test_kernel_record() -> None:
    record = (
        "6,1234,5678,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,"
        "oom_memcg=/box/hostler-a-b/c1d2,task_memcg=/box/hostler-a-b/c1d2,task=my,pid=1,task,pid=4711,uid=100000\n SUBSYSTEM=x"
    )
    assert parse(record) == Kill("/box/hostler-a-b/c1d2", "my,pid=1,task", 4711)
    assert parse("6,1,2,-;Memory cgroup out of memory: Killed process 1 (x)") is None
    assert parse(record.replace("oom-kill:", "user says oom-kill:")) is None


def test_words() -> None:
    assert kill_message(1, 64 << 20, [Kill("/c", "stress", 123)]) == "the memory limit of 64M killed process 123 (stress)"
    assert kill_message(3, None, []) == "the memory limit killed 3 processes"
    assert kill_message(3, 1 << 30, [Kill("/c", "a", 1), Kill("/c", "b", 2)]).endswith("killed processes 1 (a), 2 (b) and 1 more")
    ended = guest.ExitRecord(pid=1, started_at=1, code=3, at=datetime.now(UTC))
    assert exit_message(ended) == "its first process ended with status 3"
    assert ended.status == 3
    killed = ended.model_copy(update={"code": None, "signal": 9})
    assert (exit_message(killed), killed.status) == ("its first process was killed by signal 9", 137)


def test_bucket_slows_a_flood() -> None:
    bucket = Bucket()
    assert bucket.spend(100) == 0
    assert 0.9 < bucket.spend(2 << 20) < 1.1


# -- real containers


@pytest.mark.lab
def test_output_and_exit(world: World) -> None:
    heard = Heard()
    with watching(world, heard):
        spec = world.up("sh", "-c", "echo one; echo two >&2; printf three; exit 4")
        eventually(lambda: bool(heard.of(spec, "exited")))
        event = heard.of(spec, "exited")[0]
        assert event.message == "its first process ended with status 4"
        assert event.details["expected"] is False
        assert sorted(output(world, spec)) == ["one", "three", "two"]
        assert world.ns.inspect(spec.id).exit_code == 4


@pytest.mark.lab
def test_what_ends_at_once_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the watch is slow to look."""
    look = Watch._look

    def slowly(watch: Watch, container: str) -> None:
        time.sleep(0.1)
        look(watch, container)

    monkeypatch.setattr(Watch, "_look", slowly)
    heard = Heard()
    with watching(world, heard):
        spec = world.up("sh", "-c", "echo last words; exit 6")
        eventually(lambda: bool(heard.of(spec, "exited")))
        assert heard.of(spec, "exited")[0].details["code"] == 6
        assert output(world, spec) == ["last words"]


@pytest.mark.lab
def test_output_is_seen_at_once(world: World) -> None:
    with watching(world, Heard()):
        spec = world.up("sh", "-c", "echo ready; sleep 1000")
        eventually(lambda: output(world, spec) == ["ready"], 0.5)


@pytest.mark.lab
def test_stop_by_the_platform_is_expected(world: World) -> None:
    heard = Heard()
    with watching(world, heard):
        spec = world.up("sleep", "1000")
        guest.expect_exit(world.host, spec.id)
        world.ns.signal(spec.id, signal.SIGTERM)
        eventually(lambda: bool(heard.of(spec, "exited")))
        assert heard.of(spec, "exited")[0].details["expected"] is True
        other = world.up("sleep", "1000")
        world.ns.forget(other.id)
        eventually(lambda: bool(heard.of(other, "exited")))
        assert heard.of(other, "exited")[0].details["expected"] is True
        time.sleep(1.2)
        assert not world.host.container_dir(other.id).exists()


@pytest.mark.lab
def test_init_killed_by_the_kernel(world: World) -> None:
    heard = Heard()
    with watching(world, heard):
        spec = world.up("sleep", "1000")
        pid = world.ns.inspect(spec.id).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: bool(heard.of(spec, "exited")))
        assert heard.of(spec, "exited")[0].message in (
            "its first process was killed by signal 9",
            "its first process ended; how could not be seen",  # before Linux 6.15
        )


@pytest.mark.lab
def test_memory_kill_is_told_with_its_name(world: World) -> None:
    heard = Heard()
    with watching(world, heard):
        spec = world.up("sleep", "1000", limits=Limits(memory=32 << 20))
        assert world.sh(spec, HOG, timeout=30).exit_code == 137
        eventually(lambda: bool(heard.of(spec, "oom")))
        event = heard.of(spec, "oom")[0]
        assert event.message.startswith("the memory limit of 32M killed ")
        assert event.details["count"] == world.limits.oom_kills(spec.id) == 1
        if os.access("/dev/kmsg", os.R_OK):
            assert "(sh)" in event.message
        assert world.ns.inspect(spec.id).state == "running"
        time.sleep(1.5)
        assert len(heard.of(spec, "oom")) == 1


@pytest.mark.lab
def test_restart_of_the_watch_loses_and_doubles_nothing(world: World) -> None:
    heard = Heard()
    with watching(world, heard):
        told = world.up("sh", "-c", "echo before; exit 1")
        alive = world.up("sh", "-c", "echo 1; while ! [ -e /tmp/go ]; do sleep 0.02; done; echo 2; sleep 1000")
        missed = world.up("sh", "-c", "while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 1")
        eventually(lambda: bool(heard.of(told, "exited")) and output(world, alive) == ["1"])
        time.sleep(0.05)
    for spec in (alive, missed):
        world.sh(spec, "touch /tmp/go")
    assert world.ns.wait(missed.id, 5).state == "exited"
    time.sleep(0.1)
    with watching(world, heard):
        eventually(lambda: bool(heard.of(missed, "exited")))
        eventually(lambda: output(world, alive) == ["1", "2"])
        time.sleep(1.2)
    with watching(world, heard):
        time.sleep(0.3)
    assert [len(heard.of(spec, "exited")) for spec in (told, missed, alive)] == [1, 1, 0]


@pytest.mark.lab
def test_event_waits_for_a_deaf_broker(world: World) -> None:
    heard = Heard()
    heard.deaf = True
    with watching(world, heard):
        spec = world.up("sh", "-c", "exit 5")
        eventually(lambda: world.ns.inspect(spec.id).exit_code == 5)
        time.sleep(0.2)
        heard.deaf = False
        eventually(lambda: len(heard.of(spec, "exited")) == 1)


@pytest.mark.lab
def test_an_end_is_told_again_until_it_is_acted_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was handed on may be lost with the broker; the receiver knows a second telling by its time."""
    monkeypatch.setattr(watch_module, "REMIND", 0.2)
    heard = Heard()
    with watching(world, heard):
        spec = world.up("sh", "-c", "exit 5")
        eventually(lambda: len(heard.of(spec, "exited")) >= 2, 5)
    with watching(world, heard):
        before = len(heard.of(spec, "exited"))
        eventually(lambda: len(heard.of(spec, "exited")) > before, 5)
        assert {event.at for event in heard.of(spec, "exited")} == {heard.of(spec, "exited")[0].at}
        world.ns.delete(spec.id)
        time.sleep(0.1)
        told = len(heard.of(spec, "exited"))
        time.sleep(1.5)
        assert len(heard.of(spec, "exited")) == told


@pytest.mark.lab
def test_flood_of_one_does_not_starve_another(world: World) -> None:
    with watching(world, Heard()):
        flood = world.up("sh", "-c", "yes; sleep 1000")
        time.sleep(0.3)
        quiet = world.up("sh", "-c", "echo hello; sleep 1000")
        eventually(lambda: output(world, quiet) == ["hello"], 1)
        began = time.process_time()
        time.sleep(2)
        assert time.process_time() - began < 1, "the flood takes half a processor of the platform"
        files = list(Path(guest.log_dir(world.host, flood.id)).iterdir())
        assert sum(file.stat().st_size for file in files) <= 2 << 20


@pytest.mark.lab
def test_only_one_watch(world: World) -> None:
    with watching(world, Heard()), pytest.raises(Conflict):
        Watch(world.host, Heard()).run()


@pytest.mark.lab
def test_nudge_without_a_watch(world: World) -> None:
    assert guest.nudge(world.host, "abcd") is False
    with watching(world, Heard()):
        assert guest.nudge(world.host, "abcd") is True
        assert guest.nudge(world.host, "../../etc") is True
    assert guest.nudge(world.host, "abcd") is False
