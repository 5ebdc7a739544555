"""Limits as lists of writes, by value, for both versions; and writing them all or nothing, on plain files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hostler.core.errors import Conflict
from hostler.core.limits import IoRate, Limits
from hostler.host import cgroups
from hostler.host.cgroups import UNIFIED
from hostler_plugins.limits import cgroup2, v1, v2
from hostler_plugins.limits.writes import Write, apply_all

MIB = 1 << 20


def pairs(writes: list[Write]) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in writes]


def test_v1_cpu() -> None:
    limits = Limits(cpu=1.5, cpu_weight=200, cpus="0-1,4")
    assert pairs(v1.cpu(limits, "0-7")) == [
        ("cpu.shares", "2048"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "150000"),
        ("cpuset.cpus", "0-1,4"),
    ]
    assert pairs(v1.cpu(Limits(), "0-7"))[2:] == [("cpu.cfs_quota_us", "-1"), ("cpuset.cpus", "0-7")]


@pytest.mark.parametrize(("weight", "shares"), [(1, 10), (50, 512), (100, 1024), (10000, 102400)])
def test_v1_shares_keep_ratios(weight: int, shares: int) -> None:
    assert v1.shares(weight) == shares


def test_v1_smallest_cap_is_what_the_kernel_takes() -> None:
    assert ("cpu.cfs_quota_us", "1000") in pairs(v1.cpu(Limits(cpu=0.01), "0"))


def test_v1_memory_order_when_growing_and_shrinking() -> None:
    limits = Limits(memory=128 * MIB, swap=64 * MIB)
    hard, both = ("memory.limit_in_bytes", str(128 * MIB)), ("memory.memsw.limit_in_bytes", str(192 * MIB))
    assert pairs(v1.memory(limits, swap_limit_now=64 * MIB))[:2] == [both, hard]
    assert pairs(v1.memory(limits, swap_limit_now=512 * MIB))[:2] == [hard, both]
    assert pairs(v1.memory(limits, swap_limit_now=1 << 62))[:2] == [hard, both]
    lifted = [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")]
    assert pairs(v1.memory(Limits(), swap_limit_now=64 * MIB))[:2] == lifted


def test_v1_no_swap_without_swap_accounting() -> None:
    assert ("memory.swappiness", "0") in pairs(v1.memory(Limits(memory=64 * MIB), None))
    assert ("memory.swappiness", "60") in pairs(v1.memory(Limits(memory=64 * MIB, swap=MIB), None))


def test_v1_no_swap_means_memsw_is_memory() -> None:
    assert ("memory.memsw.limit_in_bytes", str(64 * MIB)) in pairs(v1.memory(Limits(memory=64 * MIB), 1 << 62))


def test_v1_io_and_pids() -> None:
    limits = Limits(io=IoRate(read_bps=MIB, write_iops=50), io_weight=300, pids=40)
    assert pairs(v1.io(limits, [(8, 0)])) == [
        ("blkio.bfq.weight", "300"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio.throttle.write_bps_device", "8:0 0"),
        ("blkio.throttle.read_iops_device", "8:0 0"),
        ("blkio.throttle.write_iops_device", "8:0 50"),
    ]
    assert pairs(v1.pids(limits)) == [("pids.max", "40")]
    assert pairs(v1.pids(Limits())) == [("pids.max", "max")]


def test_v2() -> None:
    limits = Limits(
        cpu=0.5, cpu_weight=50, cpus="1", memory=64 * MIB, memory_guarantee=16 * MIB, swap=8 * MIB, pids=40,
        io=IoRate(read_bps=MIB, write_iops=50), io_weight=300,
    )
    assert pairs(v2.all_writes(limits, devices=[(8, 0)])) == [
        ("cpu.weight", "50"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "1"),
        ("pids.max", "40"),
        ("io.bfq.weight", "300"),
        ("io.weight", "default 300"),
        ("io.max", "8:0 rbps=1048576 wbps=max riops=max wiops=50"),
        ("memory.low", str(16 * MIB)),
        ("memory.swap.max", str(8 * MIB)),
        ("memory.max", str(64 * MIB)),
    ]


def test_v2_unlimited() -> None:
    assert pairs(v2.all_writes(Limits(), devices=[])) == [
        ("cpu.weight", "100"),
        ("cpu.max", "max 100000"),
        ("cpuset.cpus", "\n"),
        ("pids.max", "max"),
        ("io.bfq.weight", "100"),
        ("io.weight", "default 100"),
        ("memory.low", "0"),
        ("memory.swap.max", "max"),
        ("memory.max", "max"),
    ]


def test_refused_write_undoes_the_former(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"old-{name}")
    (tmp_path / "c").mkdir()  # a folder: opening it for writing fails
    writes = [Write("x", "a", "new-a"), Write("x", "b", "new-b"), Write("x", "missing", "1", optional=True), Write("x", "c", "1")]

    def former(folder: Path, write: Write) -> str:
        return (folder / write.file).read_text() if write.file != "c" else ""

    with pytest.raises(Exception, match="the kernel refused '1' for c"):
        apply_all({"x": tmp_path}, writes, former, lambda folder: None)
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["old-a", "old-b"]


def test_v2_shrink_below_use_is_refused_with_nothing_changed(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text(str(80 * MIB))
    (tmp_path / "memory.high").write_text("max")
    (tmp_path / "memory.reclaim").write_text("")
    with pytest.raises(Conflict, match="80M of memory are in use and cannot be brought down to 64M"):
        cgroup2.shrink(tmp_path, 64 * MIB)
    assert (tmp_path / "memory.high").read_text().startswith("max")
    assert (tmp_path / "memory.reclaim").read_text() == str(16 * MIB)
    assert cgroup2.shrink(tmp_path, 80 * MIB) is False


def test_v2_former_values_can_be_written_back(tmp_path: Path) -> None:
    (tmp_path / "io.max").write_text("7:1 rbps=5 wbps=max riops=max wiops=max\n8:0 rbps=9 wbps=max riops=max wiops=max\n")
    (tmp_path / "cpuset.cpus").write_text("\n")
    io = Write(UNIFIED, "io.max", "8:0 rbps=max wbps=max riops=max wiops=max")
    assert cgroup2.former(tmp_path, io) == "8:0 rbps=9 wbps=max riops=max wiops=max"
    assert cgroup2.former(tmp_path, Write(UNIFIED, "io.max", "9:0 rbps=1")).startswith("9:0 rbps=max")
    assert cgroup2.former(tmp_path, Write(UNIFIED, "cpuset.cpus", "1")) == "\n"


def test_v2_usage(tmp_path: Path) -> None:
    for file, text in {
        "cpu.stat": "usage_usec 5\nnr_throttled 1\nthrottled_usec 7\n",
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.swap.current": "512\n",
        "memory.swap.peak": "1024\n",
        "memory.swap.events": "high 0\nmax 9\nfail 11\n",
        "pids.peak": "40\n",
        "cpu.pressure": "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n",
        "memory.pressure": "some avg10=0.00 avg60=1.00 avg300=0.10 total=5\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
        "pids.current": "4\n",
        "pids.events": "max 6\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n7:0 rbytes=1 wbytes=2 rios=1 wios=1\n",
    }.items():
        (tmp_path / file).write_text(text)
    usage = cgroup2.read_usage(tmp_path)
    assert (usage.cpu_ns, usage.cpu_throttled_ns, usage.memory, usage.memory_limit_hits) == (5000, 7000, 4096, 3)
    assert (usage.oom_kills, usage.pids, usage.pids_limit_hits) == (2, 4, 6)
    assert (usage.io_read_bytes, usage.io_write_bytes) == (11, 22)
    assert (usage.memory_peak, usage.swap, usage.swap_peak, usage.swap_limit_hits) == (8192, 512, 1024, 9)
    assert (usage.pids_peak, usage.cpu_throttled_periods) == (40, 1)
    assert (usage.cpu_pressure, usage.memory_pressure, usage.io_pressure) == (12.5, 0.0, None)


def test_pressure_that_the_kernel_keeps_not_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.pressure(tmp_path, "cpu") is None
    with pytest.raises(FileNotFoundError):
        cgroups.pressure(tmp_path / "gone", "cpu")

    def off(folder: Path, file: str) -> str:
        raise OSError(errno.EOPNOTSUPP, "psi=0", file)

    monkeypatch.setattr(cgroups, "read", off)
    assert cgroups.pressure(tmp_path, "io") is None


def test_a_cgroup_that_goes_away_while_it_is_read_is_told_as_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says ENODEV of a file that was open when its cgroup was removed, and of a block device that is not there."""

    def no_such_device(path: Path) -> str:
        raise OSError(errno.ENODEV, "No such device", str(path))

    monkeypatch.setattr(Path, "read_text", no_such_device)
    with pytest.raises(FileNotFoundError):
        cgroups.read(tmp_path / "gone", "cgroup.procs")
    with pytest.raises(OSError, match="No such device"):
        cgroups.read(tmp_path, "io.max")
    assert cgroups.processes(tmp_path / "gone") == []


def test_v2_the_cgroups_around_are_guaranteed_what_those_inside_are(tmp_path: Path) -> None:
    for name, low in {"account.a": "0", "account.a/c1": str(16 * MIB), "account.a/c2": str(8 * MIB), "c3": str(4 * MIB), "account.b": "0"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.low").write_text(low)
    (tmp_path / "memory.low").write_text("0" * 20)
    cgroup2.add_up(tmp_path / "account.a")
    assert (tmp_path / "account.a/memory.low").read_text() == str(24 * MIB)
    cgroup2.add_up(tmp_path)
    assert (tmp_path / "memory.low").read_text().startswith(str(28 * MIB))
    cgroup2.add_up(tmp_path / "gone")
