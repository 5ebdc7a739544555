"""A container's life with every ns driver, on the real kernel."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostler.contracts.storage import IdmapMount, OverlayMount, RootPlan
from hostler.core.errors import Conflict, HostFailure, Invalid, NotFound
from hostler.core.limits import Limits
from hostler.core.specs import ExecSpec
from hostler.host import cgroups, guest, mountinfo
from hostler.host.pidfd import Identity
from hostler_plugins.ns.runc import Runc
from tests.plugins.ns.world import World

pytestmark = pytest.mark.lab


def read_fifo(world: World, container: str, name: str = guest.OUT) -> int:
    return os.open(guest.guest_dir(world.host, container) / name, os.O_RDWR | os.O_NONBLOCK)


def leftovers(world: World) -> list[str]:
    """All on this machine that bears the installation's name, or lies in its state folder."""
    name = f"hostler-{world.host.installation}"
    found = [str(path) for one in cgroups.hierarchies().values() for path in one.mount.rglob(f"{name}*")]
    found += [str(path) for path in (world.host.state_dir / "ns").rglob("*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (process / "mountinfo").read_text()
            words = (process / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if name in mounts or str(world.host.state_dir) in mounts or str(world.host.state_dir) in words:
            found.append(f"process {process.name}: {words}")
    return found


def test_full_life(world: World) -> None:
    spec = world.spec("sh", "-c", "echo hello; trap 'exit 7' TERM; while :; do sleep 0.05; done")
    sandbox, _ = world.create(spec)
    assert sandbox.state == "created"
    assert world.ns.inspect(spec.id) == sandbox
    out = read_fifo(world, spec.id)
    world.ns.start(spec.id)
    running = world.ns.inspect(spec.id)
    assert (running.state, running.pid) == ("running", sandbox.pid)
    result = world.ns.exec(spec.id, ExecSpec(args=("sh", "-c", "echo out; echo err >&2; exit 3")))
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")
    assert select.select([out], [], [], 5)[0]  # a command may be done before the container's own shell has begun
    assert os.read(out, 100) == b"hello\n"
    status = read_fifo(world, spec.id, guest.STATUS)
    world.ns.signal(spec.id, signal.SIGTERM)
    assert world.ns.wait(spec.id, 5).state == "exited"
    assert os.read(status, 100) == b"exit 7\n"
    world.ns.delete(spec.id)
    assert world.ns.inspect(spec.id).state == "absent"
    os.close(out)
    os.close(status)


def test_nothing_is_left(world: World) -> None:
    spec = world.up("sleep", "1000")
    assert leftovers(world), "the search itself must find a running container"
    world.sh(spec, "sleep 1000 >/dev/null 2>&1 &")
    world.ns.forget(spec.id)
    world.limits.remove(spec.id)
    assert [path for one in cgroups.hierarchies().values() for path in one.mount.rglob(spec.id)] == []
    world.down()
    assert leftovers(world) == []
    assert not world.host.container_dir(spec.id).exists()
    assert not world.ns.scratch.exists()


def test_no_mount_on_the_host(world: World) -> None:
    def ours() -> list[mountinfo.Mount]:
        names = (str(world.host.state_dir), world.host.installation)
        return [mount for mount in mountinfo.read() if any(name in f"{mount.point} {mount.source} {mount.root}" for name in names)]

    before = ours()
    world.up("sleep", "1000")
    assert ours() == before


def test_verbs_are_idempotent(world: World) -> None:
    spec = world.spec("sleep", "1000")
    first, cgroup = world.create(spec)
    assert world.ns.create(spec, world.root_plan(spec), cgroup) == first
    world.ns.start(spec.id)
    world.ns.start(spec.id)
    assert world.ns.create(spec, world.root_plan(spec), cgroup).state == "running"
    for _ in range(2):
        world.ns.delete(spec.id)
        world.ns.signal(spec.id, signal.SIGTERM)
        world.ns.forget(spec.id)
    with pytest.raises(NotFound):
        world.ns.start(spec.id)
    with pytest.raises(Conflict):
        world.sh(spec, "true")


def test_exited_sandbox_is_made_anew(world: World) -> None:
    spec = world.up("true")
    assert world.ns.wait(spec.id, 5).state == "exited"
    sandbox, _ = world.create(spec)
    assert sandbox.state == "created"


def test_new_driver_object_adopts(world: World) -> None:
    spec = world.up("sleep", "1000")
    other = world.driver(world.host)
    seen = other.inspect(spec.id)
    assert seen.state == "running"
    assert seen == world.ns.inspect(spec.id)
    assert other.exec(spec.id, ExecSpec(args=("hostname",))).stdout == f"{spec.name}\n"
    other.delete(spec.id)
    assert world.ns.inspect(spec.id).state == "absent"


def test_reused_pid_is_not_ours(world: World) -> None:
    spec = world.up("sleep", "1000")
    record = guest.read_init(world.host, spec.id)
    assert record is not None
    stranger = Identity.of(os.getpid())
    assert stranger is not None
    guest.write_init(world.host, spec.id, record.model_copy(update={"pid": stranger.pid}))
    assert world.ns.inspect(spec.id).state == "exited"
    world.ns.signal(spec.id, signal.SIGKILL)  # would end this very test
    guest.write_init(world.host, spec.id, record)


def test_crash_in_the_middle_of_create_is_cleaned(world: World) -> None:
    """A worker that died after the runtime had made the sandbox, before it wrote the init down."""
    spec = world.spec("sleep", "1000")
    sandbox, cgroup = world.create(spec)
    guest.remove_init(world.host, spec.id)
    assert world.ns.inspect(spec.id).state == "absent"
    again, _ = world.create(spec)
    assert again.pid != sandbox.pid
    assert world.limits.processes(spec.id) == [again.pid]
    assert cgroup.parents


def test_worker_killed_while_creating(world: World) -> None:
    """Killed at any moment, the next create finds its way, and exactly one init is there in the end."""
    spec = world.spec("sleep", "1000")
    cgroup = world.limits.create(spec.id, spec.limits)
    plan = world.root_plan(spec)
    script = """
import sys
from pathlib import Path
from hostler.contracts.driver import Host
from hostler.contracts.limits import Cgroup
from hostler.contracts.storage import RootPlan
from hostler.core.specs import ContainerSpec
from importlib import import_module
module, name, installation, state, libexec, spec, plan, cgroup = sys.argv[1:]
ns = getattr(import_module(module), name)(Host(installation, "alpha", Path(state), Path(libexec)))
print("ready", flush=True)
ns.create(ContainerSpec.model_validate_json(spec), RootPlan.model_validate_json(plan), Cgroup.model_validate_json(cgroup))
"""
    words = [world.driver.__module__, world.driver.__name__, world.host.installation, str(world.host.state_dir), str(world.host.libexec)]
    words += [spec.model_dump_json(), plan.model_dump_json(), cgroup.model_dump_json()]
    for delay in (0.002, 0.01, 0.02, 0.03, 0.045):
        worker = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE)
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(delay)
        worker.kill()
        worker.wait()
        worker.stdout.close()
        sandbox, _ = world.create(spec)
        assert sandbox.state == "created"
        assert sandbox.pid in world.limits.processes(spec.id)
        assert len(world.limits.processes(spec.id)) == 1
        world.ns.delete(spec.id)
        assert world.limits.processes(spec.id) == []


def test_overlay_root(world: World) -> None:
    """Image below, writes above, ids shifted on both."""
    volume = world.host.state_dir / "volume"
    for name in ("upper", "work"):
        (volume / name).mkdir(parents=True)
    plan = RootPlan(
        mounts=[
            IdmapMount(source=world.rootfs, target="image"),
            IdmapMount(source=volume, target="volume"),
            OverlayMount(lower=["image"], upper="volume/upper", work="volume/work", target="root"),
        ]
    )
    spec = world.spec("sleep", "1000")
    world.ns.create(spec, plan, world.limits.create(spec.id, spec.limits))
    world.ns.start(spec.id)
    assert world.sh(spec, "echo mine > /new; rm /etc/group; chown 33 /new; cat /new").stdout == "mine\n"
    assert (volume / "upper/new").stat().st_uid == 33
    assert (world.rootfs / "etc/group").exists()


def test_failed_create_leaves_nothing(world: World) -> None:
    spec = world.spec("sleep", "1000")
    cgroup = world.limits.create(spec.id, spec.limits)
    plan = world.root_plan(spec)
    broken = plan.model_copy(update={"mounts": [plan.mounts[0].model_copy(update={"source": Path("/proc/nothing")})]})
    with pytest.raises(HostFailure, match="cannot open /proc/nothing"):
        world.ns.create(spec, broken, cgroup)
    assert world.ns.inspect(spec.id).state == "absent"
    assert world.limits.processes(spec.id) == []
    assert [item for item in world.ns.inventory() if item.kind != "folder"] == []


def test_too_little_memory_says_so(world: World) -> None:
    spec = world.spec("sleep", "1000", limits=Limits(memory=4 << 20))
    cgroup = world.limits.create(spec.id, spec.limits)
    folder = world.folder(spec, "memory")
    cgroups.write(folder, "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max", str(256 << 10))
    with pytest.raises(Invalid, match="memory limit of 4M is too small"):
        world.ns.create(spec, world.root_plan(spec), cgroup)
    assert world.limits.processes(spec.id) == []


def test_too_few_processes_say_so(world: World) -> None:
    """runc's init has a few threads before it becomes the container's; crun's has none."""
    spec = world.spec("sleep", "1000", limits=Limits(memory=64 << 20, pids=4))
    cgroup = world.limits.create(spec.id, spec.limits)
    cgroups.write(world.folder(spec, "pids"), "pids.max", "3")
    if world.driver is not Runc:
        assert world.ns.create(spec, world.root_plan(spec), cgroup).state == "created"
        return
    with pytest.raises(Invalid, match="limit of 4 processes is too small"):
        world.ns.create(spec, world.root_plan(spec), cgroup)
    assert world.limits.processes(spec.id) == []


def test_init_without_a_command_waits(world: World) -> None:
    spec = world.up()
    assert world.sh(spec, "ps | wc -l").exit_code == 0
    assert world.ns.inspect(spec.id).state == "running"
    world.ns.signal(spec.id, signal.SIGTERM)
    assert world.ns.wait(spec.id, 5).state == "exited"


def test_unknown_command_gives_127(world: World) -> None:
    spec = world.spec("no-such-program")
    world.create(spec)
    status, err = read_fifo(world, spec.id, guest.STATUS), read_fifo(world, spec.id, guest.ERR)
    world.ns.start(spec.id)
    world.ns.wait(spec.id, 5)
    assert os.read(status, 100) == b"exit 127\n"
    assert b"cannot run no-such-program: No such file or directory" in os.read(err, 1000)
    os.close(status)
    os.close(err)


def test_zombies_are_reaped(world: World) -> None:
    spec = world.up("sleep", "1000")
    world.sh(spec, "for i in 1 2 3 4 5; do (sleep 0.01 & ) ; done; sleep 0.2")
    assert " Z " not in world.sh(spec, "ps -o stat,comm; cat /proc/[0-9]*/stat").stdout


def test_user_of_the_image(world: World) -> None:
    spec = world.up("sh", "-c", "id > /tmp/id; pwd >> /tmp/id; echo $HOME >> /tmp/id; sleep 1000", user="ada", cwd="/home")
    result = world.sh(spec, "while ! [ -s /tmp/id ]; do sleep 0.01; done; sleep 0.05; cat /tmp/id")
    assert result.stdout.splitlines() == ["uid=1815(ada) gid=1852(engines) groups=1871(analysts)", "/home", "/home/ada"]
    assert world.sh(spec, "id -u; id -g", user="ada").stdout.split() == ["1815", "1852"]
    assert world.sh(spec, "id -u; id -g", user="33:44").stdout.split() == ["33", "44"]
    with pytest.raises(Invalid, match="cannot become user nobody"):
        world.sh(spec, "true", user="nobody")
    with pytest.raises(Invalid, match="cannot run nothing"):
        world.ns.exec(spec.id, ExecSpec(args=("nothing",)))
    with pytest.raises(Invalid, match="cannot enter /none"):
        world.sh(spec, "true", cwd="/none")


def test_exec_environment_and_input(world: World) -> None:
    spec = world.up("sleep", "1000", env=("PATH=/bin", "COLOR=blue"))
    result = world.sh(spec, "cat; echo $COLOR $SIZE", env=("COLOR=red", "SIZE=4"), stdin="given\n")
    assert result.stdout == "given\nred 4\n"


def test_exec_is_in_all_of_the_containers_cgroups(world: World) -> None:
    """Seen from the container's cgroup namespace: what is elsewhere would be /../…"""
    spec = world.up("sleep", "1000")
    places = [line.split(":", 2) for line in world.sh(spec, "cat /proc/self/cgroup").stdout.splitlines()]
    assert len(places) >= len(cgroups.hierarchies())
    assert [place for _, names, place in places if place != "/" and not (names in ("pids", "") and place.startswith("/exec-"))] == []


def test_exec_output_is_bounded(world: World) -> None:
    spec = world.up("sleep", "1000")
    result = world.sh(spec, "yes | head -c 3000000", output_limit=1000)
    assert result.truncated
    assert len(result.stdout) == 1000
    assert result.exit_code == 0


def test_exec_time_limit_kills_the_whole_tree(world: World) -> None:
    spec = world.up("sleep", "1000")
    result = world.sh(spec, "(setsid sleep 77 &) ; setsid sleep 78 & sleep 79", timeout=0.5)
    assert result.timed_out
    assert result.seconds < 3
    assert "sleep 7" not in world.sh(spec, "ps -o args").stdout
    assert world.ns.inspect(spec.id).state == "running"


def test_exec_leaves_daemons_running(world: World) -> None:
    spec = world.up("sleep", "1000")
    world.sh(spec, "sleep 77 >/dev/null 2>&1 &")
    assert "sleep 77" in world.sh(spec, "ps -o args").stdout
    assert not list(world.folder(spec, "pids").glob("exec-*"))


def test_fork_bomb_in_exec_ends_with_its_time(world: World) -> None:
    """The shell that waits forks once, before there is a bomb: it would end as soon as it cannot."""
    spec = world.up("sleep", "1000", limits=Limits(memory=64 << 20, pids=40))
    result = world.sh(spec, "b() { b | b & }; b & while :; do :; done", timeout=1)
    assert result.timed_out
    assert result.seconds < 8
    assert len(world.limits.processes(spec.id)) == 2


def test_a_stop_right_after_a_start_is_not_lost(world: World) -> None:
    """The signal may come while the runtime's process is just becoming our init, which has no handler yet."""
    for _ in range(8):
        spec = world.up("sleep", "1000")
        world.ns.signal(spec.id, signal.SIGTERM)
        assert world.ns.wait(spec.id, 2).state == "exited"
        world.ns.forget(spec.id)
