"""What keeps a container from being checkpointed is told beforehand, and nothing else is: each word is held against what CRIU then does.

Containers are confined so that a tenant can do few of these things; here the confinement is lifted as far as a thing needs it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostler.core.errors import Conflict
from hostler.core.specs import ContainerSpec
from hostler_plugins.checkpoint import sockets
from hostler_plugins.ns import bundle
from hostler_plugins.ns.oci import Oci
from hostler_plugins.ns.runc import Runc
from tests.plugins.checkpoint.conftest import Node
from tests.plugins.ns.world import eventually

lab = pytest.mark.lab

#: As a container is; without its system call filter; with capabilities over its own namespaces and with MPTCP; with a device of the host's.
CONFINED, UNFILTERED, MIGHTY, DEVICE = range(4)
#: What cannot be taken along: the thing, as awkward.c calls it; how much confinement it needs; the obstacle's code.
NOT = (
    ("secretmem", CONFINED, "secret_memory"), ("mqueue", CONFINED, "message_queue"), ("mptcp", MIGHTY, "socket"), ("traced", CONFINED, "traced"),
    ("huge-ghost", CONFINED, "deleted_file"), ("half-deleted", CONFINED, "deleted_file"), ("mapped-ghost", CONFINED, "deleted_file"),
    ("io_uring", UNFILTERED, "io_uring"), ("userfaultfd", UNFILTERED, "special_file"), ("perf", UNFILTERED, "special_file"), ("vsock", UNFILTERED, "socket"),
    ("ns-user", UNFILTERED, "nested_namespace"), ("ns-net", MIGHTY, "nested_namespace"), ("ns-uts", MIGHTY, "nested_namespace"), ("ns-ipc", MIGHTY, "nested_namespace"),
    ("ns-pid", MIGHTY, "nested_namespace"), ("ns-cgroup", MIGHTY, "nested_namespace"), ("ns-time", MIGHTY, "nested_namespace"), ("device", DEVICE, "device"),
)  # fmt: skip
#: What can, all at once.
CAN = {
    CONFINED: ("memfd", "shared", "sysv", "pidfd", "inotify", "ping", "udplite", "netlink", "udp", "tcp", "seqpacket", "unaccepted", "zombie", "ghost", "lock", "aio"),
    MIGHTY: ("fanotify", "raw", "packet", "ns-mnt", "mount"),
}  # fmt: skip


@pytest.fixture
def driver() -> type[Oci]:
    """One of them: what CRIU can is the same with each."""
    return Runc


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled once."""
    program = tmp_path_factory.mktemp("awkward") / "awkward"
    subprocess.run(["cc", "-O1", "-Wall", "-static", "-o", program, Path(__file__).with_suffix("").with_name("awkward.c"), "-lrt"], check=True)
    return program


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A device that no container has: /dev/fuse, for everybody."""
    node = tmp_path / "device"
    os.mknod(node, 0o020666, os.makedev(10, 229))
    node.chmod(0o666)
    yield node
    node.unlink()


def lifted(config: Callable[..., dict[str, Any]], level: int, device: Path) -> Callable[..., dict[str, Any]]:
    """The runtime's configuration, with less confinement."""

    def changed(*args: Any, **more: Any) -> dict[str, Any]:
        made = config(*args, **more)
        if level >= UNFILTERED:
            made["linux"]["seccomp"] = made["linux"]["seccomp"] | {"defaultAction": "SCMP_ACT_ALLOW"}
            made["linux"]["seccomp"]["syscalls"] = [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]
        if level >= MIGHTY:
            for names in made["process"]["capabilities"].values():
                names += ["CAP_SYS_ADMIN", "CAP_NET_RAW"]
            made["linux"]["sysctl"].pop("net.mptcp.enabled", None)
        if level == DEVICE:
            made["mounts"].append({"destination": "/dev/fuse", "type": "bind", "source": str(device), "options": ["bind"]})
        return made

    return changed


def doing(node: Node, awkward: Path, things: tuple[str, ...]) -> ContainerSpec:
    """A container in which all of that is done."""
    world = node.world
    spec = world.spec("sh", "-c", f"for thing in {' '.join(things)}; do /tmp/awkward $thing & done; wait; exit 1")
    world.root_plan(spec)
    program = world.root_of(spec) / "tmp/awkward"
    program.write_bytes(awkward.read_bytes())
    program.chmod(0o755)
    world.create(spec)
    world.ns.start(spec.id)
    ready = [world.root_of(spec) / f"tmp/ready-{thing}" for thing in things]
    eventually(lambda: all(file.exists() for file in ready) or world.ns.inspect(spec.id).state == "exited", 10)
    if world.ns.inspect(spec.id).state == "exited":
        pytest.skip(f"this kernel has no {' or '.join(things)}")
    return spec


@lab
@pytest.mark.parametrize(("thing", "level", "code"), NOT, ids=[thing for thing, _, _ in NOT])
def test_what_cannot_be_taken_along_is_told_and_then_fails(
    nodes: tuple[Node, Node], awkward: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thing: str, level: int, code: str
) -> None:
    here, _ = nodes
    monkeypatch.setattr(bundle, "config", lifted(bundle.config, level, device))
    if level == DEVICE:
        monkeypatch.setattr(bundle, "DEVICES", (*bundle.DEVICES, (10, 229)))
    spec = doing(here, awkward, (thing,))
    told = here.criu.examine(here.world.ns.shape(spec.id))
    assert code in {one.code for one in told} and all(one.message and one.remedy for one in told), told
    here.world.ns.freeze(spec.id)
    (tmp_path / "images").mkdir()
    with pytest.raises(Conflict, match="cannot be checkpointed"):
        here.criu.dump(here.world.ns.shape(spec.id), tmp_path / "images")
    assert here.world.ns.inspect(spec.id).state == "frozen"
    here.world.ns.thaw(spec.id)
    assert here.world.sh(spec, "true").exit_code == 0, "it goes on"


@lab
@pytest.mark.parametrize("level", CAN, ids=["confined", "mighty"])
def test_what_is_not_told_comes_back(
    nodes: tuple[Node, Node], awkward: Path, device: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    here, there = nodes
    monkeypatch.setattr(bundle, "config", lifted(bundle.config, level, device))
    spec = doing(here, awkward, CAN[level])
    assert here.criu.examine(here.world.ns.shape(spec.id)) == []
    here.world.ns.freeze(spec.id)
    images = tmp_path / "images"
    images.mkdir()
    here.criu.dump(here.world.ns.shape(spec.id), images)
    here.world.ns.delete(spec.id)
    pid = there.restore(spec, images)
    there.criu.release(images)
    there.world.ns.adopt(spec.id, pid)
    eventually(lambda: there.criu.examine(there.world.ns.shape(spec.id)) == [])  # CRIU itself may still be there
    for process in there.world.limits.processes(spec.id):
        if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"/tmp/awkward"):
            os.kill(process, signal.SIGUSR1)
    root = there.world.root_of(spec)
    eventually(lambda: all((root / f"tmp/again-{thing}").exists() for thing in CAN[level]), 10)
    assert {thing: (root / f"tmp/again-{thing}").read_text() for thing in CAN[level]} == dict.fromkeys(CAN[level], "yes")


@lab
def test_a_container_has_no_mptcp(nodes: tuple[Node, Node], awkward: Path) -> None:
    """Programs that prefer it use TCP then, and can be checkpointed."""
    here, _ = nodes
    spec = doing(here, awkward, ("nothing",))
    found = here.world.sh(spec, "cat /proc/sys/net/mptcp/enabled; /tmp/awkward mptcp")
    assert found.exit_code == 77 and found.stdout in ("0\n", "")


@lab
def test_a_stopped_process_is_told_and_not_waited_for(nodes: tuple[Node, Node], awkward: Path, tmp_path: Path) -> None:
    here, _ = nodes
    spec = doing(here, awkward, ("stopped",))
    (told,) = here.criu.examine(here.world.ns.shape(spec.id))
    assert told.code == "stopped" and "Ctrl-Z" in told.message
    here.world.ns.freeze(spec.id)
    began = time.monotonic()
    with pytest.raises(Conflict, match="is stopped by a signal"):
        here.criu.dump(here.world.ns.shape(spec.id), tmp_path)
    assert time.monotonic() - began < 5


@lab
def test_a_file_of_the_hosts_is_told(nodes: tuple[Node, Node], awkward: Path, tmp_path: Path) -> None:
    """A daemon that a command from outside has left keeps what it was given."""
    here, _ = nodes
    spec = doing(here, awkward, ("nothing",))
    (tmp_path / "outside").write_text("the host's")
    pid = here.world.ns.inspect(spec.id).pid
    enter = ["nsenter", "--target", str(pid), "--all", "--", "/bin/sh", "-c", "sleep 100 & echo"]
    with (tmp_path / "outside").open() as given:
        left = subprocess.Popen(enter, stdin=given, stdout=subprocess.DEVNULL, pass_fds=(given.fileno(),))
        assert left.wait(10) == 0
    world = here.world
    inside = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_in(entry, str(pid)) and b"sleep" in (entry / "cmdline").read_bytes()]
    assert len(inside) == 1
    Path(here.world.folder(spec, "pids") / "cgroup.procs").write_text(str(inside[0]))
    told = here.criu.examine(world.ns.shape(spec.id))
    assert {one.code for one in told} >= {"external_file"} and any(str(tmp_path / "outside") in one.message for one in told), told
    os.kill(inside[0], signal.SIGKILL)


def _is_in(process: Path, init: str) -> bool:
    try:
        return os.readlink(process / "ns/pid") == os.readlink(f"/proc/{init}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "bad"),
    [(1, 1, 0, ""), (2, 1, 6, ""), (10, 2, 17, ""), (2, 2, 1, ""), (10, 3, 58, ""), (16, 3, 15, ""), (17, 3, 0, ""), (2, 1, 262, "MPTCP"), (2, 1, 132, "SCTP"),
     (10, 1, 33, "DCCP"), (38, 5, 0, "AF_ALG"), (40, 1, 0, "AF_VSOCK"), (44, 3, 0, "AF_XDP"), (99, 1, 0, "family 99"), (2, 2, 99, "protocol 99")],
)  # fmt: skip
def test_which_sockets_come_along(family: int, kind: int, protocol: int, bad: str) -> None:
    told = sockets.against(family, kind, protocol)
    assert (told is None) == (not bad)
    assert told is None or (bad in told[0] and told[1])
