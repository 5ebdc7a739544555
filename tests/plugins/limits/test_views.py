"""What a tenant sees of its limits: lxcfs's files over /proc, through its death and its return."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostler.core.limits import Limits
from hostler.core.specs import ContainerSpec
from hostler.host import lxcfs, mounts
from hostler.host.pidfd import Identity
from hostler.node.views import Views
from tests.plugins.ns.world import World, eventually

pytestmark = pytest.mark.lab
MIB = 1 << 20
SMALL = Limits(memory=64 * MIB, cpu=1, pids=50)


@dataclass
class Lxcfs:
    """The lxcfs of a test's server, started as its supervisor does."""

    world: World
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def point(self) -> Path:
        return lxcfs.mount_point(self.world.host)

    def start(self) -> None:
        host = self.world.host
        env = os.environ | {"HOSTLER_NODE": host.node, "HOSTLER_NODE_STATE": str(host.state_dir), "HOSTLER_INSTALLATION": host.installation}
        self.processes.append(subprocess.Popen([sys.executable, "-m", "hostler.node.lxcfs"], env=env, stderr=subprocess.DEVNULL))
        eventually(lambda: lxcfs.answering(self.point) is not None, 10)

    def end(self, number: int = signal.SIGTERM) -> None:
        process = self.processes[-1]
        process.send_signal(number)
        process.wait(10)

    def clear(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
        if self.point.parent.is_dir():
            mounts.unmount(self.point, lazy=True)


@pytest.fixture
def service(world: World) -> Iterator[Lxcfs]:
    if shutil.which("lxcfs") is None:
        pytest.skip("lxcfs is not installed")
    one = Lxcfs(world)
    try:
        one.start()
        yield one
    finally:
        one.clear()


def up(world: World, limits: Limits = SMALL) -> tuple[ContainerSpec, Identity]:
    """A running container."""
    spec = world.spec("sleep", "1000", limits=limits)
    sandbox, _ = world.create(spec)
    assert sandbox.pid is not None and sandbox.started_at is not None
    init = Identity(sandbox.pid, sandbox.started_at)
    world.ns.start(spec.id)
    return spec, init


def total(world: World, spec: ContainerSpec) -> int:
    """Bytes of memory that the container is told to have."""
    answer = world.sh(spec, "cat /proc/meminfo")
    assert answer.exit_code == 0, answer
    name, kib, _ = answer.stdout.splitlines()[0].split()
    assert name == "MemTotal:"
    return int(kib) * 1024


def test_a_container_sees_its_own_limits_and_their_change(service: Lxcfs) -> None:
    world = service.world
    spec, init = up(world)
    assert total(world, spec) == 64 * MIB
    assert set(lxcfs.bound(init.pid)) == set(lxcfs.views(service.point))
    assert world.sh(spec, "grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; grep -c ^cpu[0-9] /proc/stat").stdout == "1\n0\n1\n"
    assert float(world.sh(spec, "cut -d' ' -f1 /proc/uptime").stdout) < 60
    assert world.sh(spec, "cat /proc/swaps").stdout.count("\n") == 1
    assert len(world.sh(spec, "cat /proc/loadavg").stdout.split()) == 5
    world.limits.apply(spec.id, Limits(memory=96 * MIB, cpu=1, pids=50))
    assert total(world, spec) == 96 * MIB
    world.limits.apply(spec.id, Limits(memory=96 * MIB, cpus="1"))
    assert world.sh(spec, "nproc; grep -c ^processor /proc/cpuinfo").stdout == "1\n1\n"


def test_what_is_bound_cannot_be_written_or_taken_away(service: Lxcfs) -> None:
    spec, _ = up(service.world)
    assert service.world.sh(spec, "echo 1 > /proc/meminfo").exit_code != 0
    assert service.world.sh(spec, "umount /proc/meminfo").exit_code != 0
    assert total(service.world, spec) == 64 * MIB


def test_a_container_is_none_the_worse_for_the_death_of_lxcfs_and_sees_its_successor(service: Lxcfs) -> None:
    world = service.world
    spec, init = up(world)
    keeper = Views(world.host)
    keeper.look()
    service.end(signal.SIGKILL)
    assert world.sh(spec, "cat /proc/meminfo").exit_code != 0
    assert lxcfs.answering(service.point) is None
    other, _ = up(world)  # made while there is none
    keeper.look()
    assert lxcfs.bound(init.pid) == {}
    assert total(world, spec) == total(world, other) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    service.start()
    keeper.look()
    assert total(world, spec) == total(world, other) == 64 * MIB
    assert len(lxcfs.bound(init.pid)) == len(lxcfs.FILES)


def test_lxcfs_that_hangs_holds_up_nobody(service: Lxcfs) -> None:
    world = service.world
    os.kill(service.processes[-1].pid, signal.SIGSTOP)
    began = time.monotonic()
    spec, init = up(world)
    for _ in range(10):
        assert lxcfs.answering(service.point) is None
    assert time.monotonic() - began < 3
    assert lxcfs.bound(init.pid) == {}
    assert world.sh(spec, "cat /proc/meminfo").exit_code == 0
    os.kill(service.processes[-1].pid, signal.SIGCONT)
    eventually(lambda: lxcfs.offer(world.host, init))
    assert total(world, spec) == 64 * MIB


def test_detached_and_attached_as_around_a_checkpoint(service: Lxcfs) -> None:
    world = service.world
    spec, init = up(world)
    lxcfs.detach(init)
    lxcfs.detach(init)
    assert lxcfs.bound(init.pid) == {}
    assert total(world, spec) > 64 * MIB
    assert lxcfs.attach(service.point, init)
    assert lxcfs.attach(service.point, init)
    mounted = Path(f"/proc/{init.pid}/mountinfo").read_text()
    assert mounted.count(lxcfs.KIND) == len(lxcfs.FILES)
    world.ns.delete(spec.id)
    assert not lxcfs.attach(service.point, init)
    lxcfs.detach(init)


def test_a_frozen_container_has_none_of_it_and_a_thawed_one_all(service: Lxcfs) -> None:
    world = service.world
    spec, init = up(world)
    world.ns.freeze(spec.id)
    Views(world.host).look()
    assert lxcfs.bound(init.pid) == {}
    world.ns.thaw(spec.id)
    assert total(world, spec) == 64 * MIB


def test_what_is_missing_is_told_and_what_is_no_container_passed_over(service: Lxcfs) -> None:
    world = service.world
    (world.host.state_dir / "containers" / ".draft").mkdir(parents=True)
    Views(world.host).look()
    assert lxcfs.lack(world.host) is None
    assert "lxcfs" not in str(world.limits.probe().lacks)
    service.end()
    lack = lxcfs.lack(world.host)
    assert lack is not None and lack.remedy and not lack.blocks
    assert lack in world.limits.probe().lacks
    (world.host.state_dir / "containers" / ".draft").rmdir()


def test_the_servers_own_processes_are_never_touched(service: Lxcfs) -> None:
    me = Identity.of(os.getpid())
    assert me is not None
    before = Path("/proc/self/mountinfo").read_text()
    assert not lxcfs.offer(service.world.host, me)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_it_costs_little(service: Lxcfs) -> None:
    world = service.world
    times = []
    for _ in range(10):
        spec = world.spec("sleep", "1000")
        sandbox, _ = world.create(spec)
        assert sandbox.pid is not None and sandbox.started_at is not None
        init = Identity(sandbox.pid, sandbox.started_at)
        assert lxcfs.bound(init.pid)
        lxcfs.detach(init)
        began = time.perf_counter()
        assert lxcfs.offer(world.host, init)
        times.append((time.perf_counter() - began) * 1000)
    assert statistics.median(times) < 10, times
