"""A container's life on a stock server: every step by the node's runner, real drivers, the kernel's own word for what holds."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from hostler.core.limits import Limits
from hostler.core.specs import ContainerSpec, DriverNames
from hostler.core.units import MIB
from hostler.host import guest, mountinfo
from hostler.operations import container_steps as steps
from tests.vm.node import Node, eventually

pytestmark = pytest.mark.lab

SHAPES = [
    DriverNames(ns="runc", net="bridge", storage="overlay", limits="cgroup2"),
    DriverNames(ns="crun", net="routed", storage="loop", limits="cgroup2"),
    DriverNames(ns="crun", net="bridge", storage="btrfs", limits="cgroup2"),
]
every_shape = pytest.mark.parametrize("node", SHAPES, indirect=True, ids=lambda names: f"{names.ns}-{names.net}-{names.storage}")


def cgroup_of(node: Node, spec: ContainerSpec) -> Path:
    """Folder of the container's cgroup."""
    pid = node.server.drivers.ns(spec.drivers.ns).inspect(spec.id).pid
    return Path("/sys/fs/cgroup" + Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::"))


def answers(address: str) -> bool:
    """Whether the machine beyond the switch, which has the gateways, reaches an address of a container."""
    ping = ["ping", "-c", "1", "-W", "2", address]
    return subprocess.run(ping, capture_output=True, timeout=30).returncode == 0


@every_shape
def test_from_provision_to_delete(node: Node) -> None:
    spec = node.spec()
    node.run(spec, [*steps.make_volume("alpha"), *steps.bring_up("alpha")])
    is_up(node, spec)
    node.sh(spec, "echo kept > /root/state")
    holds_its_disk(node, spec)
    bigger = spec.limits.model_copy(update={"memory": 96 * MIB, "pids": 99, "cpu": 0.75, "disk": 64 * MIB})
    spec = resized(node, spec, bigger)
    is_stopped_and_started(node, spec)
    assert node.sh(spec, "cat /root/state").stdout == "kept\n"
    node.run(spec, [*steps.take_down("alpha", 20), *steps.remove_volume("alpha")])
    assert node.owned(spec) == []
    assert not guest.log_dir(node.host, spec.id).exists()
    assert [mount.point for mount in mountinfo.read() if spec.id in str(mount.point)] == []
    assert list(Path("/sys/fs/cgroup").rglob(f"*{spec.id}*")) == []


def is_up(node: Node, spec: ContainerSpec) -> None:
    """Running, reachable, in namespaces of its own and the cgroup of its own, held to its limits."""
    assert node.sh(spec, "hostname; id -u").stdout == f"{spec.name}\n0\n"
    folder = cgroup_of(node, spec)
    assert spec.id in folder.parts
    read = {name: (folder / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")}
    assert read == {"memory.max": str(64 * MIB), "pids.max": "64", "cpu.max": "50000 100000"}
    pid = node.server.drivers.ns(spec.drivers.ns).inspect(spec.id).pid
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(spec.ids.base), "65536"]
    for address in spec.links[0].addresses:
        eventually(partial(answers, address.split("/")[0]), 20)


def holds_its_disk(node: Node, spec: ContainerSpec) -> None:
    """A tenant's write ends at the disk's size, and room comes back."""
    disk = spec.limits.disk
    assert disk is not None
    full = node.sh(spec, "dd if=/dev/zero of=/root/full bs=64k count=2000 2>&1; du -k /root/full; sync; rm /root/full; sync")
    assert "No space left" in full.stdout or "uota exceeded" in full.stdout, full
    wrote = int(full.stdout.splitlines()[-1].split()[0]) * 1024
    assert disk * 0.7 < wrote < disk * 1.05, full
    storage = node.server.drivers.storage(spec.drivers.storage)
    eventually(lambda: storage.usage(spec.id).used < disk / 2)


def resized(node: Node, spec: ContainerSpec, limits: Limits) -> ContainerSpec:
    """Other limits, live; the spec that has them."""
    node.run(spec, steps.resize("alpha", spec.limits, limits, running=True))
    changed = spec.model_copy(update={"limits": limits})
    folder = cgroup_of(node, changed)
    read = [(folder / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")]
    assert read == [str(limits.memory), str(limits.pids), "75000 100000"]
    room = node.sh(changed, "dd if=/dev/zero of=/root/more bs=64k count=700 && rm /root/more")
    assert room.exit_code == 0, room
    return changed


def is_stopped_and_started(node: Node, spec: ContainerSpec) -> None:
    """Obeys its stop signal; nothing but volume and folder are left; then all is as before."""
    folder = cgroup_of(node, spec)
    report = node.run(spec, steps.take_down("alpha", 20))
    assert report.outcomes[0].result == {"obeyed": True}
    assert not folder.exists()
    assert {one.split(":")[0] for one in node.owned(spec)} == {"storage", "ns"}  # volume and folder
    node.run(spec, steps.bring_up("alpha"))
    assert node.sh(spec, "cat /root/state").stdout == "kept\n"


@pytest.mark.parametrize("node", SHAPES[:1], indirect=True)
def test_a_hog_is_killed_counted_and_told(node: Node) -> None:
    spec = node.spec()
    node.run(spec, [*steps.make_volume("alpha"), *steps.bring_up("alpha")])
    limits = node.server.drivers.limits("cgroup2")
    assert node.sh(spec, "a=x; while :; do a=$a$a; done").exit_code == 137
    assert limits.oom_kills(spec.id) == 1
    assert 32 * MIB < limits.usage(spec.id).memory_peak <= 64 * MIB
    eventually(lambda: [event.kind for event in node.events if event.container == spec.id and event.kind == "oom"] == ["oom"])
    assert node.sh(spec, "echo still here").stdout == "still here\n"


@pytest.mark.parametrize("node", SHAPES[:1], indirect=True)
def test_what_a_stock_server_offers(node: Node) -> None:
    facts = {f"{fact.group}:{fact.name}": fact for fact in node.server.drivers.facts}
    wanted = {"limits:cgroup2", "ns:crun", "ns:runc", "net:bridge", "net:routed", "storage:btrfs", "storage:loop", "storage:overlay"}
    assert {name: facts[name].problem for name in wanted if not facts[name].usable} == {}
    assert not facts["limits:cgroup1"].usable
    for storage in ("btrfs", "loop", "overlay"):
        assert {"quota", "live_resize"} <= set(facts[f"storage:{storage}"].capabilities)


@pytest.mark.parametrize("node", SHAPES[:1], indirect=True)
def test_a_tenant_cannot_write_past_its_quota_by_another_project(node: Node) -> None:
    spec = node.spec()
    node.run(spec, [*steps.make_volume("alpha"), *steps.bring_up("alpha")])
    node.sh(spec, "touch /root/mine; mkdir /root/folder")
    pid = node.server.drivers.ns(spec.drivers.ns).inspect(spec.id).pid
    for name in ("mine", "folder"):
        file = f"/proc/{pid}/root/root/{name}"
        before = project_of(file)
        assert before >= 1 << 30
        tenant = ["nsenter", "--user", "--target", str(pid), "--", "chattr"]
        assert subprocess.run([*tenant, "+A", file], timeout=30).returncode == 0, "it may change what is its own"
        assert subprocess.run([*tenant, "-p", "0", file], capture_output=True, timeout=30).returncode != 0
        assert project_of(file) == before


def project_of(file: str) -> int:
    """The project that a file is counted in."""
    return int(subprocess.run(["lsattr", "-pd", file], capture_output=True, text=True, check=True, timeout=30).stdout.split()[0])
