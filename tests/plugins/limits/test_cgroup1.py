"""Limits on the real kernel, seen from inside and outside."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostler.core.errors import Conflict, Invalid, NotFound
from hostler.core.limits import IoRate, Limits
from hostler.host import cgroups
from hostler_plugins.limits.cgroup1 import Cgroup1
from tests.plugins.ns.world import World, eventually

pytestmark = pytest.mark.lab

BUSY = "while :; do :; done"


def value(world: World, container: str, key: str, file: str) -> str:
    return cgroups.read(Path(world.limits.create(container, world.made[container].limits).parents[key]), file)


def cpu_share(world: World, containers: list[str], seconds: float = 2.0) -> list[float]:
    """Processors used by each container meanwhile."""
    before, began = [world.limits.usage(one).cpu_ns for one in containers], time.monotonic()
    time.sleep(seconds)
    passed = (time.monotonic() - began) * 1e9
    return [(world.limits.usage(one).cpu_ns - used) / passed for one, used in zip(containers, before, strict=True)]


def test_limits_hold_before_anybody_is_in(world: World) -> None:
    spec = world.spec("true", limits=Limits(memory=64 << 20, cpu=0.5, cpus="1", pids=17))
    parents = {key: Path(folder) for key, folder in world.limits.create(spec.id, spec.limits).parents.items()}
    assert world.limits.processes(spec.id) == []
    assert cgroups.read(parents["memory"], "memory.limit_in_bytes") == str(64 << 20)
    assert cgroups.read(parents["cpu"], "cpu.cfs_quota_us") == "50000"
    assert cgroups.read(parents["cpuset"], "cpuset.cpus") == "1"
    assert cgroups.read(parents["pids"], "pids.max") == "17"
    if (parents["memory"] / "memory.memsw.limit_in_bytes").exists():
        assert cgroups.read(parents["memory"], "memory.memsw.limit_in_bytes") == str(64 << 20)
    if (parents["blkio"] / "blkio.throttle.read_bps_device").exists():
        world.limits.apply(spec.id, Limits(io=IoRate(read_bps=1 << 20)))
        assert " 1048576" in cgroups.read(parents["blkio"], "blkio.throttle.read_bps_device")
        world.limits.apply(spec.id, Limits())
        assert cgroups.read(parents["blkio"], "blkio.throttle.read_bps_device") == ""


def test_all_processes_are_in_all_hierarchies(world: World) -> None:
    spec = world.up("sleep", "1000")
    pid = world.ns.inspect(spec.id).pid
    group = f"/hostler-{world.host.installation}-alpha/{spec.id}"
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert lines
    assert [line for line in lines if not line.endswith(group)] == []


def test_resize_live(world: World) -> None:
    spec = world.up("sleep", "1000", limits=Limits(memory=32 << 20, pids=20))
    limits = Cgroup1(world.host)  # as after a restart of the worker
    for change in (Limits(memory=128 << 20, swap=1 << 20, pids=30, cpu=1), Limits(memory=16 << 20, cpus="0"), Limits()):
        limits.apply(spec.id, change)
        folder = {key: Path(path) for key, path in limits.create(spec.id, change).parents.items()}
        assert cgroups.memory_limit({"memory": str(folder["memory"])}) == change.memory
        assert cgroups.read(folder["pids"], "pids.max") == ("max" if change.pids is None else str(change.pids))


def test_shrink_below_use_is_refused_and_changes_nothing(world: World) -> None:
    spec = world.up("sh", "-c", "a=$(head -c 40000000 /dev/zero | tr '\\0' x); while :; do sleep 1; done", limits=Limits(memory=256 << 20, pids=20))
    eventually(lambda: world.limits.usage(spec.id).memory > 40_000_000, 10)
    time.sleep(0.2)
    folder = Path(world.limits.create(spec.id, spec.limits).parents["memory"])
    with pytest.raises(Conflict, match="cannot be reclaimed"):
        world.limits.apply(spec.id, Limits(memory=16 << 20, pids=10))
    assert cgroups.read(folder, "memory.limit_in_bytes") == str(256 << 20)
    assert value(world, spec.id, "pids", "pids.max") == "20"
    assert world.ns.inspect(spec.id).state == "running"


def test_shrink_reclaims_page_cache(world: World) -> None:
    spec = world.up("sleep", "1000", limits=Limits(memory=128 << 20))
    world.sh(spec, "head -c 50000000 /dev/zero > /tmp/big; sync; cat /tmp/big > /dev/null")
    assert world.limits.usage(spec.id).memory > 40_000_000
    world.limits.apply(spec.id, Limits(memory=16 << 20))
    assert world.limits.usage(spec.id).memory <= 16 << 20


def test_refused_change_keeps_the_former_limits(world: World) -> None:
    spec = world.up("sleep", "1000", limits=Limits(memory=64 << 20, cpu=0.5, pids=20))
    folders = {key: Path(path) for key, path in world.limits.create(spec.id, spec.limits).parents.items()}
    with pytest.raises(Invalid, match="processors 77 are not all on this server"):
        world.limits.apply(spec.id, Limits(memory=128 << 20, cpu=1, pids=30, cpus="77"))
    assert cgroups.read(folders["memory"], "memory.limit_in_bytes") == str(64 << 20)
    assert cgroups.read(folders["cpu"], "cpu.cfs_quota_us") == "50000"
    with pytest.raises(Invalid):
        world.limits.create("zzzz", Limits(cpus="77"))
    assert "zzzz" not in [item.owner for item in world.limits.inventory()]


def test_memory_hog_is_killed_and_counted(world: World) -> None:
    spec = world.up("sleep", "1000", limits=Limits(memory=32 << 20))
    assert world.limits.oom_kills(spec.id) == 0
    assert world.sh(spec, "a=x; while :; do a=$a$a; done", timeout=30).exit_code == 137
    assert world.limits.oom_kills(spec.id) == 1
    assert 16 << 20 < world.limits.usage(spec.id).memory_peak <= 32 << 20


def test_fork_bomb_stops_while_the_neighbour_answers(world: World) -> None:
    neighbour = world.up("sleep", "1000")
    bomb = world.up("sh", "-c", "b() { b | b & }; b; while :; do sleep 1; done", limits=Limits(memory=64 << 20, pids=50, cpu=0.5))
    eventually(lambda: world.limits.usage(bomb.id).pids_limit_hits > 0, 10)
    began = time.monotonic()
    assert world.sh(neighbour, "echo here").stdout == "here\n"
    assert time.monotonic() - began < 2
    assert world.limits.usage(bomb.id).pids <= 50
    began = time.monotonic()
    world.ns.delete(bomb.id)
    world.limits.remove(bomb.id)
    assert time.monotonic() - began < 5


def test_remove_wins_against_a_fork_bomb_by_itself(world: World) -> None:
    bomb = world.up("sh", "-c", "b() { b | b & }; b; while :; do b; done", limits=Limits(memory=64 << 20, pids=50, cpu=0.5))
    eventually(lambda: world.limits.usage(bomb.id).pids_limit_hits > 0, 10)
    world.limits.remove(bomb.id)
    assert world.limits.processes(bomb.id) == []
    assert world.limits.inventory() == []


def test_cpu_cap(world: World) -> None:
    spec = world.up("sh", "-c", BUSY, limits=Limits(cpu=0.3, memory=32 << 20))
    time.sleep(0.3)
    assert cpu_share(world, [spec.id], 3.0)[0] == pytest.approx(0.3, rel=0.1)
    assert world.limits.usage(spec.id).cpu_throttled_ns > 0
    assert world.limits.usage(spec.id).cpu_throttled_periods > 5


def test_cpu_weights(world: World) -> None:
    pinned = {"cpus": "1", "memory": 32 << 20}
    light = world.up("sh", "-c", BUSY, limits=Limits(cpu_weight=100, **pinned))
    heavy = world.up("sh", "-c", BUSY, limits=Limits(cpu_weight=300, **pinned))
    time.sleep(0.5)
    low, high = cpu_share(world, [light.id, heavy.id], 4.0)
    assert high / low == pytest.approx(3, rel=0.12)


def test_pressure_and_marks_are_read_back(world: World) -> None:
    """Two that want one processor: each waits half of the time. Then their most processes are remembered."""
    pinned = Limits(cpus="1", memory=32 << 20, pids=30)
    spec = world.up("sh", "-c", f"({BUSY}) & {BUSY}", limits=pinned)
    usage = world.limits.usage(spec.id)
    if usage.cpu_pressure is None:
        pytest.skip("this kernel counts no pressure: no cgroup v2 beside, or psi=0")
    eventually(lambda: (world.limits.usage(spec.id).cpu_pressure or 0) > 10, 20)
    assert (usage.memory_pressure, usage.io_pressure) != (None, None)
    world.sh(spec, "for i in 1 2 3 4 5 6; do sleep 0.1 & done; wait")
    usage = world.limits.usage(spec.id)
    if (Path(world.limits.create(spec.id, pinned).parents["pids"]) / "pids.peak").exists():
        assert usage.pids < 9 <= usage.pids_peak


def test_absent_container(world: World) -> None:
    for call in (world.limits.usage, world.limits.oom_kills):
        with pytest.raises(NotFound):
            call("absent")
    with pytest.raises(NotFound):
        world.limits.apply("absent", Limits())
    assert world.limits.processes("absent") == []
    world.limits.remove("absent")


def test_place_is_remembered_by_a_worker_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.up("sleep", "1000")
    monkeypatch.setattr("hostler_plugins.limits.place.own_places", lambda: pytest.fail("the remembered place must be used"))
    assert Cgroup1(world.host).processes(spec.id) == world.limits.processes(spec.id) != []


def test_worker_in_another_memory_cgroup_starts_containers_in_the_right_place(world: World) -> None:
    """The runtime takes paths relative to its own cgroup; the driver knows better where they belong."""
    own = cgroups.hierarchies()["memory"].own
    other = own / f"hostler-{world.host.installation}-other"
    spec = world.spec("sleep", "1000")
    cgroup = world.limits.create(spec.id, spec.limits)
    plan = world.root_plan(spec)
    script = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hostler.contracts.driver import Host
from hostler.contracts.limits import Cgroup
from hostler.contracts.storage import RootPlan
from hostler.core.specs import ContainerSpec
from hostler_plugins.ns.runc import Runc
Path({str(other / "cgroup.procs")!r}).write_text("0")
host = Host({world.host.installation!r}, "alpha", Path({str(world.host.state_dir)!r}), Path({str(world.host.libexec)!r}))
spec, plan, cgroup = sys.argv[1:]
Runc(host).create(ContainerSpec.model_validate_json(spec), RootPlan.model_validate_json(plan), Cgroup.model_validate_json(cgroup))
"""
    other.mkdir()
    try:
        words = [spec.model_dump_json(), plan.model_dump_json(), cgroup.model_dump_json()]
        subprocess.run([sys.executable, "-c", script, *words], check=True, timeout=60)
        pid = world.ns.inspect(spec.id).pid
        assert str(pid) in cgroups.read(Path(cgroup.parents["memory"]), "cgroup.procs").split()
    finally:
        cgroups.remove(other)


def test_accounts_share_processors_before_their_containers_do(world: World) -> None:
    """Three busy containers of one account against one of another, all on one processor: half each."""
    pinned = Limits(cpus="1", memory=32 << 20)
    specs = [world.spec("sh", "-c", BUSY, limits=pinned) for _ in range(4)]
    for spec, account in zip(specs, ("many", "many", "many", "one0"), strict=True):
        cgroup = world.limits.create(spec.id, spec.limits, account)
        world.ns.create(spec, world.root_plan(spec), cgroup)
    for spec in specs:
        world.ns.start(spec.id)
    time.sleep(0.5)
    shares = cpu_share(world, [spec.id for spec in specs], 4.0)
    assert sum(shares[:3]) / shares[3] == pytest.approx(1, rel=0.2)
    world.limits.create(specs[3].id, pinned, "one0", 300)
    time.sleep(0.3)
    shares = cpu_share(world, [spec.id for spec in specs], 4.0)
    assert shares[3] / sum(shares[:3]) == pytest.approx(3, rel=0.25)


def test_an_accounts_cgroup_goes_with_its_last_container_while_others_come(world: World) -> None:
    def come_and_go(number: int) -> None:
        for turn in range(10):
            container = f"c{number}t{turn}"
            world.limits.create(container, Limits(pids=20), "acc0")
            assert world.limits.usage(container).pids == 0
            world.limits.remove(container)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    assert world.limits.inventory() == []
    world.limits.create("c0", Limits(), "acc0")
    (item,) = world.limits.inventory()
    assert (item.owner, item.name) == ("c0", f"hostler-{world.host.installation}-alpha/account.acc0/c0")
    world.limits.remove("c0")
    assert world.limits.inventory() == []


def test_what_a_killed_worker_left_of_an_account_goes_with_the_next_removal(world: World) -> None:
    base = Path(world.limits.create("c0", Limits()).parents["memory"]).parent
    (base / "account.acc0").mkdir()
    assert ("account.acc0", None) in [(item.name.rpartition("/")[2], item.owner) for item in world.limits.inventory()]
    world.limits.remove("c0")
    world.limits.remove("c0")
    assert world.limits.inventory() == []
