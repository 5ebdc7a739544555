"""Driver ``cgroup2`` and the kernel it is for: what is written holds, what is refused changes nothing, what is counted is true."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostler.contracts.driver import Host
from hostler.core.errors import Conflict, Invalid
from hostler.core.limits import IoRate, Limits
from hostler.core.names import new_id
from hostler.core.units import MIB
from hostler.host import blocks, cgroups
from hostler_plugins.limits.cgroup2 import WORKER, Cgroup2
from tests.vm.node import eventually

pytestmark = pytest.mark.lab

BUSY = "while :; do :; done"
Start = Callable[..., int]


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[Cgroup2]:
    """The driver, set up below the cgroup of the tests; all of it is gone in the end."""
    driver = Cgroup2(Host(installation="v" + new_id(6), node="alpha", state_dir=tmp_path / "state", libexec=tmp_path))
    driver.setup()
    try:
        yield driver
    finally:
        for item in driver.inventory():
            if item.owner:
                driver.remove(item.owner)
        driver.teardown()


@pytest.fixture
def start(limits: Cgroup2) -> Iterator[Start]:
    """Starts a shell script in a container's cgroup; it is in there before its first word is read."""
    made: list[subprocess.Popen[bytes]] = []

    def begin(container: str, script: str) -> int:
        process = subprocess.Popen(["sh", "-c", f"read go; {script}"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        made.append(process)
        assert cgroups.move(process.pid, limits._folder(container))
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        return process.pid

    yield begin
    for process in made:
        process.kill()
        process.wait()


def value(limits: Cgroup2, container: str, file: str) -> str:
    """What the kernel has."""
    return cgroups.read(limits._folder(container), file)


def hold(size: int) -> str:
    """A script that keeps so many bytes of memory."""
    return f"exec {sys.executable} -c 'import time; kept = b\"x\" * {size}; time.sleep(600)'"


def shares(limits: Cgroup2, containers: list[str], seconds: float) -> list[float]:
    """Processors used by each container meanwhile."""
    before, began = [limits.usage(one).cpu_ns for one in containers], time.monotonic()
    time.sleep(seconds)
    passed = (time.monotonic() - began) * 1e9
    return [(limits.usage(one).cpu_ns - used) / passed for one, used in zip(containers, before, strict=True)]


def test_the_worker_is_moved_to_a_leaf_and_all_controllers_are_handed_down(limits: Cgroup2) -> None:
    assert cgroups.hierarchies()[cgroups.UNIFIED].own.name == WORKER
    limits.create("c01", Limits())
    assert {"cpu", "cpuset", "memory", "pids", "io"} <= set(value(limits, "c01", "cgroup.controllers").split())
    assert limits.probe().usable
    assert limits.capabilities.memory_guarantee and limits.capabilities.io_rate and limits.capabilities.swap


def test_what_is_asked_for_is_what_the_kernel_has(limits: Cgroup2) -> None:
    asked = Limits(memory=64 * MIB, memory_guarantee=16 * MIB, swap=8 * MIB, cpu=0.5, cpu_weight=300, cpus="0", pids=17, io=IoRate(read_bps=MIB, write_iops=50))
    limits.create("c01", asked)
    wanted = {
        "memory.max": str(64 * MIB), "memory.low": str(16 * MIB), "memory.swap.max": str(8 * MIB), "memory.high": "max",
        "cpu.max": "50000 100000", "cpu.weight": "300", "cpuset.cpus": "0", "pids.max": "17",
    }  # fmt: skip
    assert {file: value(limits, "c01", file) for file in wanted} == wanted
    disk = ":".join(map(str, blocks.under(limits.host.state_dir)[0]))
    assert f"{disk} rbps={MIB} wbps=max riops=max wiops=50" in value(limits, "c01", "io.max").splitlines()
    limits.apply("c01", Limits())
    open_again = {file: value(limits, "c01", file) for file in ("memory.max", "memory.low", "pids.max", "cpu.max", "cpuset.cpus", "io.max")}
    assert open_again == {"memory.max": "max", "memory.low": "0", "pids.max": "max", "cpu.max": "max 100000", "cpuset.cpus": "", "io.max": ""}


def test_a_refused_change_keeps_the_former_limits(limits: Cgroup2) -> None:
    limits.create("c01", Limits(memory=64 * MIB, cpu=0.5, pids=20))
    with pytest.raises(Invalid):
        limits.apply("c01", Limits(memory=128 * MIB, cpu=0.7, pids=30, cpus="77"))
    assert [value(limits, "c01", file) for file in ("memory.max", "cpu.max", "pids.max", "cpuset.cpus")] == [str(64 * MIB), "50000 100000", "20", ""]
    with pytest.raises(Invalid):
        limits.create("c02", Limits(cpus="77"))
    assert "c02" not in {item.owner for item in limits.inventory()}


def test_a_limit_below_the_use_is_refused_and_nobody_is_killed(limits: Cgroup2, start: Start) -> None:
    limits.create("c01", Limits(memory=128 * MIB, pids=20))
    pid = start("c01", hold(60 * MIB))
    eventually(lambda: limits.usage("c01").memory > 60 * MIB)
    with pytest.raises(Conflict) as refused:
        limits.apply("c01", Limits(memory=16 * MIB, pids=10))
    assert refused.value.hint
    assert [value(limits, "c01", file) for file in ("memory.max", "memory.high", "pids.max")] == [str(128 * MIB), "max", "20"]
    assert limits.processes("c01") == [pid]
    assert limits.oom_kills("c01") == 0


def test_page_cache_is_given_back_for_a_smaller_limit(limits: Cgroup2, start: Start, tmp_path: Path) -> None:
    limits.create("c01", Limits(memory=128 * MIB))
    start("c01", f"head -c {40 * MIB} /dev/zero > {tmp_path}/big; sync {tmp_path}/big; cat {tmp_path}/big > /dev/null; sleep 600")
    eventually(lambda: limits.usage("c01").memory > 30 * MIB)
    eventually(lambda: os.stat(tmp_path / "big").st_size == 40 * MIB)
    limits.apply("c01", Limits(memory=16 * MIB))
    assert limits.usage("c01").memory <= 16 * MIB
    assert value(limits, "c01", "memory.high") == "max"


def test_a_hog_is_killed_and_counted(limits: Cgroup2, start: Start) -> None:
    limits.create("c01", Limits(memory=32 * MIB))
    start("c01", hold(100 * MIB))
    eventually(lambda: limits.oom_kills("c01") == 1)
    usage = limits.usage("c01")
    assert 16 * MIB < usage.memory_peak <= 32 * MIB
    assert usage.memory_limit_hits > 0 and usage.oom_kills == 1


def test_forks_beyond_the_limit_are_refused_and_counted(limits: Cgroup2, start: Start) -> None:
    limits.create("c01", Limits(pids=10))
    start("c01", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 600 & done; wait")
    eventually(lambda: limits.usage("c01").pids_limit_hits > 0)
    assert limits.usage("c01").pids == limits.usage("c01").pids_peak == 10
    limits.remove("c01")
    assert limits.processes("c01") == []


def test_a_cap_holds_and_what_was_held_back_is_told(limits: Cgroup2, start: Start) -> None:
    limits.create("c01", Limits(cpu=0.3))
    start("c01", BUSY)
    time.sleep(0.5)
    assert shares(limits, ["c01"], 4)[0] == pytest.approx(0.3, rel=0.15)
    usage = limits.usage("c01")
    assert usage.cpu_throttled_ns > 0 and usage.cpu_throttled_periods > 5


def test_accounts_share_first_then_their_containers(limits: Cgroup2, start: Start) -> None:
    """One account with two busy containers, of weights 100 and 300; another with one: each account gets half."""
    for container, account, weight in (("c01", "acc1", 100), ("c02", "acc1", 300), ("c03", "acc2", 100)):
        limits.create(container, Limits(cpu_weight=weight), account)
        start(container, BUSY)
    time.sleep(1)
    light, heavy, other = shares(limits, ["c01", "c02", "c03"], 8)
    assert other / (light + heavy) == pytest.approx(1, rel=0.2)
    assert heavy / light == pytest.approx(3, rel=0.3)


def test_what_containers_are_guaranteed_is_guaranteed_to_the_cgroups_around_them(limits: Cgroup2) -> None:
    for container, low in (("c01", 16 * MIB), ("c02", 8 * MIB)):
        limits.create(container, Limits(memory=64 * MIB, memory_guarantee=low), "acc1")
    around = limits._folder("c01").parent
    assert [cgroups.read(folder, "memory.low") for folder in (around, around.parent)] == [str(24 * MIB)] * 2
    limits.apply("c01", Limits(memory=64 * MIB))
    assert [cgroups.read(folder, "memory.low") for folder in (around, around.parent)] == [str(8 * MIB)] * 2
    limits.remove("c02")
    assert [cgroups.read(folder, "memory.low") for folder in (around, around.parent)] == ["0", "0"]


def test_pressure_is_told(limits: Cgroup2, start: Start) -> None:
    limits.create("c01", Limits(cpu=0.2))
    start("c01", f"({BUSY}) & {BUSY}")
    assert limits.usage("c01").cpu_pressure is not None, "the stock kernel counts pressure"
    eventually(lambda: (limits.usage("c01").cpu_pressure or 0) > 10)


def test_block_writes_are_held_to_their_rate_buffered_ones_too(limits: Cgroup2, start: Start, tmp_path: Path) -> None:
    limits.create("c01", Limits(memory=64 * MIB, io=IoRate(write_bps=2 * MIB)))
    began = time.monotonic()
    start("c01", f"dd if=/dev/zero of={tmp_path}/out bs=64k count=128 conv=fsync; touch {tmp_path}/done; sleep 600")
    eventually((tmp_path / "done").exists)
    assert time.monotonic() - began > 2.5, "8 MB at 2 MB/s"
    assert limits.usage("c01").io_write_bytes >= 7 * MIB
