"""A worker and its watch are killed; new ones find what runs, and all goes on as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hostler.contracts.ns import Sandbox
from hostler.core.limits import Limits
from hostler.core.specs import ContainerSpec, ExecSpec
from hostler.host import cgroups
from hostler_plugins.ns.crun import Crun
from hostler_plugins.ns.runc import Runc
from tests.node.test_watch import HOG, Heard, output, watching
from tests.plugins.ns.world import World, eventually, limits_driver

pytestmark = pytest.mark.lab

#: Counts aloud, ten times a second or faster, until it is told to end.
COUNT = "trap 'echo heard' USR1; trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"

WORKER = """
import json, sys, threading, time
from importlib import import_module
from pathlib import Path
from hostler.contracts.driver import Host
from hostler.contracts.storage import RootPlan
from hostler.core.specs import ContainerSpec
from hostler.node.watch import Watch
from tests.plugins.ns.world import limits_driver
module, name, installation, state, libexec, work = sys.argv[1:]
host = Host(installation, "alpha", Path(state), Path(libexec))
threading.Thread(target=Watch(host, lambda event: None).run, daemon=True).start()
ns, limits = getattr(import_module(module), name)(host), limits_driver()(host)
ns.setup()
made = {}
for spec, plan in json.loads(work):
    spec = ContainerSpec.model_validate(spec)
    ns.create(spec, RootPlan.model_validate(plan), limits.create(spec.id, spec.limits))
    ns.start(spec.id)
    made[spec.id] = ns.inspect(spec.id).model_dump()
print(json.dumps(made), flush=True)
time.sleep(60)
"""


def started_elsewhere(world: World, *specs: ContainerSpec) -> tuple[subprocess.Popen[bytes], dict[str, Sandbox]]:
    """A worker with a watch that has started the containers, and what it saw of them."""
    work = [[spec.model_dump(mode="json"), world.root_plan(spec).model_dump(mode="json")] for spec in specs]
    words = [world.driver.__module__, world.driver.__name__, world.host.installation, str(world.host.state_dir)]
    words += [str(world.host.libexec), json.dumps(work)]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *words], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert worker.stdout is not None
        line = next((line for line in worker.stdout if line.startswith(b"{")), b"")
        worker.stdout.close()
        assert line, "the worker did not start the containers"
        return worker, {container: Sandbox.model_validate(seen) for container, seen in json.loads(line).items()}
    except BaseException:
        end(worker)
        raise


def end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()


def numbers(world: World, spec: ContainerSpec) -> list[int]:
    return [int(line) for line in output(world, spec) if line.isdigit()]


def test_everything_works_on_what_a_killed_worker_left(world: World) -> None:
    spec = world.spec("sh", "-c", COUNT, limits=Limits(memory=64 << 20, pids=40))
    worker, seen = started_elsewhere(world, spec)
    try:
        eventually(lambda: len(numbers(world, spec)) > 5)
    finally:
        end(worker)
    ns, limits, heard = world.driver(world.host), limits_driver()(world.host), Heard()
    assert ns.inspect(spec.id) == seen[spec.id]
    told = len(numbers(world, spec))
    with watching(world, heard):
        # logs: nothing is missing, nothing there twice
        eventually(lambda: len(numbers(world, spec)) > told + 20)
        found = numbers(world, spec)
        assert found == list(range(1, len(found) + 1))
        # exec, in the container's own namespaces and cgroups
        result = ns.exec(spec.id, ExecSpec(args=("sh", "-c", "hostname; exit 5")))
        assert (result.exit_code, result.stdout) == (5, f"{spec.name}\n")
        # signals reach the tenant's process
        ns.signal(spec.id, signal.SIGUSR1)
        eventually(lambda: "heard" in output(world, spec))
        # limits are changed and hold; usage grows on
        used = limits.usage(spec.id)
        limits.apply(spec.id, Limits(memory=32 << 20, pids=30))
        assert cgroups.read(world.folder(spec.model_copy(update={"limits": Limits(memory=32 << 20, pids=30)}), "pids"), "pids.max") == "30"
        assert seen[spec.id].pid in limits.processes(spec.id)
        eventually(lambda: limits.usage(spec.id).cpu_ns > used.cpu_ns)
        # memory kills are seen
        assert ns.exec(spec.id, ExecSpec(args=("sh", "-c", HOG), timeout=30)).exit_code == 137
        eventually(lambda: [event.details["count"] for event in heard.of(spec, "oom")] == [1])
        # frozen and thawed
        ns.freeze(spec.id)
        assert ns.inspect(spec.id).state == "frozen"
        ns.thaw(spec.id)
        # and its end is told, with its status
        ns.signal(spec.id, signal.SIGTERM)
        assert ns.wait(spec.id, 5).state == "exited"
        eventually(lambda: [event.details["code"] for event in heard.of(spec, "exited")] == [7])


def test_what_happened_while_nobody_looked_is_told(world: World) -> None:
    frozen = world.spec("sh", "-c", COUNT)
    ended = world.spec("sh", "-c", "echo last; while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 9")
    worker, seen = started_elsewhere(world, frozen, ended)
    try:
        eventually(lambda: output(world, ended) == ["last"])
        world.driver(world.host).freeze(frozen.id)
    finally:
        end(worker)
    ns, heard = world.driver(world.host), Heard()
    assert ns.exec(ended.id, ExecSpec(args=("touch", "/tmp/go"))).exit_code == 0
    assert ns.wait(ended.id, 5).state == "exited"
    with watching(world, heard):
        # a FIFO that nobody has open keeps nothing: that it ended is known, its last words and status are not
        eventually(lambda: len(heard.of(ended, "exited")) == 1)
        assert heard.of(ended, "exited")[0].details["expected"] is False
        assert output(world, ended) == ["last"]
        assert ns.inspect(frozen.id) == seen[frozen.id].model_copy(update={"state": "frozen"})
        assert heard.of(frozen, "exited") == []
        ns.thaw(frozen.id)
        count = len(numbers(world, frozen))
        eventually(lambda: len(numbers(world, frozen)) > count + 5)
        assert numbers(world, frozen) == list(range(1, len(numbers(world, frozen)) + 1))


def test_the_other_driver_leaves_it_alone(world: World) -> None:
    """Both drivers are loaded on a server and asked about every container."""
    spec = world.up("sleep", "1000")
    other = Crun(world.host) if world.driver is Runc else Runc(world.host)
    assert other.inspect(spec.id).state == "absent"
    assert [item for item in other.inventory() if item.owner == spec.id] == []
    other.delete(spec.id)
    other.forget(spec.id)
    other.thaw(spec.id)
    other.signal(spec.id, signal.SIGKILL)
    assert world.ns.inspect(spec.id).state == "running"
    assert world.sh(spec, "echo here").stdout == "here\n"
