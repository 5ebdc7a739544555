"""CRIU through its driver: containers of either runtime, frozen to files and back, on this server or the other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hostler.core.errors import Conflict
from hostler.core.specs import ContainerSpec
from tests.plugins.checkpoint.conftest import Node
from tests.plugins.ns.world import World, eventually

pytestmark = pytest.mark.lab

COUNTING = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done"


def count_of(world: World, spec: ContainerSpec) -> int:
    file = world.root_of(spec) / "tmp/count"
    text = file.read_text().strip() if file.exists() else ""
    return int(text) if text else 0


def goes_on(world: World, spec: ContainerSpec) -> bool:
    before, deadline = count_of(world, spec), time.monotonic() + 1
    while time.monotonic() < deadline:
        if count_of(world, spec) > before:
            return True
        time.sleep(0.02)
    return False


def stands(world: World, spec: ContainerSpec) -> bool:
    before = count_of(world, spec)
    time.sleep(0.2)
    return count_of(world, spec) == before


def frozen(node: Node, *args: str) -> ContainerSpec:
    spec = node.world.up(*(args or ("sh", "-c", COUNTING)))
    if not args:
        eventually(lambda: count_of(node.world, spec) > 3)
    node.world.ns.freeze(spec.id)
    return spec


def dumped(node: Node, spec: ContainerSpec, folder: Path) -> Path:
    images = folder / "images"
    images.mkdir(parents=True)
    report = node.criu.dump(node.world.ns.shape(spec.id), images)
    assert report.pages > 0 and report.bytes > report.pages * 4096
    return images


def test_a_dump_leaves_the_container_frozen_and_a_thaw_lets_it_go_on(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, _ = nodes
    spec = frozen(here)
    dumped(here, spec, tmp_path / "d")
    assert here.world.ns.inspect(spec.id).state == "frozen"
    assert stands(here.world, spec)
    here.world.ns.thaw(spec.id)
    assert goes_on(here.world, spec)


def test_a_container_goes_on_at_another_server_only_once_it_is_released(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = frozen(here)
    images = dumped(here, spec, tmp_path / "d")
    stood_at = count_of(here.world, spec)
    pid = there.restore(spec, images)
    assert there.criu.held(images) == pid
    time.sleep(0.2)
    assert count_of(here.world, spec) == stood_at, "it ran while it was held"
    here.world.ns.delete(spec.id)
    there.criu.release(images)
    assert there.criu.held(images) is None
    there.world.ns.adopt(spec.id, pid)
    assert there.world.ns.inspect(spec.id).state == "running"
    eventually(lambda: count_of(there.world, spec) > stood_at)
    there.criu.release(images)  # again: the same
    there.criu.abandon(images)
    assert goes_on(there.world, spec), "what was released is not touched"


def test_all_verbs_work_after_a_restore(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = frozen(here)
    images = dumped(here, spec, tmp_path / "d")
    here.world.ns.delete(spec.id)
    pid = there.restore(spec, images)
    there.criu.release(images)
    there.world.ns.adopt(spec.id, pid)
    ns = there.world.ns
    assert there.world.sh(spec, "cat /proc/1/comm; cat /proc/sys/net/ipv4/ip_unprivileged_port_start").stdout == "init\n0\n"
    assert there.world.sh(spec, "cut -d: -f3 /proc/1/cgroup | sort -u").stdout == "/\n", "it sees no cgroup of the host"
    ns.freeze(spec.id)
    assert stands(there.world, spec)
    ns.thaw(spec.id)
    assert goes_on(there.world, spec)
    ns.signal(spec.id, 15)
    assert ns.wait(spec.id, 5).state == "exited"


def test_a_restored_container_can_be_checkpointed_again(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = frozen(here)
    at = [here, there]
    for number in range(4):
        source, target = at[number % 2], at[(number + 1) % 2]
        images = dumped(source, spec, tmp_path / str(number))
        source.world.ns.delete(spec.id)
        pid = target.restore(spec, images)
        target.criu.release(images)
        target.world.ns.adopt(spec.id, pid)
        assert goes_on(target.world, spec)
        target.world.ns.freeze(spec.id)


def test_what_is_abandoned_is_gone(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = frozen(here)
    images = dumped(here, spec, tmp_path / "d")
    pid = there.restore(spec, images)
    there.criu.abandon(images)
    assert there.criu.held(images) is None
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert there.world.limits.processes(spec.id) == []
    here.world.ns.thaw(spec.id)
    assert goes_on(here.world, spec)
    with pytest.raises(Conflict, match="held"):
        there.criu.release(images)


def test_a_failure_while_the_network_is_made_ends_the_restore(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = frozen(here)
    images = dumped(here, spec, tmp_path / "d")
    landing = there.world.ns.land(spec, there.world.root_plan(spec), there.cgroup(spec))
    there.world.made[spec.id] = spec

    def broken(pid: int) -> None:
        raise RuntimeError(f"no network for {pid}")

    with pytest.raises(RuntimeError, match="no network"):
        there.criu.restore(landing, images, broken)
    eventually(lambda: there.world.limits.processes(spec.id) == [])


def test_a_command_from_outside_that_is_under_way_is_told_in_words(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, _ = nodes
    spec = here.world.up("sleep", "600")
    eventually(lambda: here.criu.examine(here.world.ns.shape(spec.id)) == [])  # the runtime's last traces go when init is run
    under_way = threading.Thread(target=lambda: here.world.sh(spec, "sleep 2"))
    under_way.start()
    eventually(lambda: bool(here.criu.examine(here.world.ns.shape(spec.id))))
    assert {one.code for one in here.criu.examine(here.world.ns.shape(spec.id))} == {"outside_process"}
    here.world.ns.freeze(spec.id)
    images = tmp_path / "refused"
    images.mkdir()
    with pytest.raises(Conflict, match="checkpointed"):
        here.criu.dump(here.world.ns.shape(spec.id), images)
    assert here.world.ns.inspect(spec.id).state == "frozen"
    here.world.ns.thaw(spec.id)
    under_way.join()
    assert here.criu.examine(here.world.ns.shape(spec.id)) == []


def test_what_a_tenant_keeps_in_shared_memory_and_dev_comes_along(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = here.world.up("sleep", "600")
    assert {"/dev", "/dev/shm"} <= set(here.world.ns.shape(spec.id).outside), "plain ones are made anew"
    here.world.sh(spec, "echo ours > /dev/shm/kept; ln -s nowhere /dev/log")
    assert not {"/dev", "/dev/shm"} & set(here.world.ns.shape(spec.id).outside)
    here.world.ns.freeze(spec.id)
    images = dumped(here, spec, tmp_path / "d")
    here.world.ns.delete(spec.id)
    pid = there.restore(spec, images)
    there.criu.release(images)
    there.world.ns.adopt(spec.id, pid)
    assert there.world.sh(spec, "cat /dev/shm/kept; readlink /dev/log").stdout == "ours\nnowhere\n"


def test_plain_dev_and_shared_memory_are_the_same_after_a_restore(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, there = nodes
    spec = here.world.up("sleep", "600")
    look = (
        "ls -ln /dev | grep -v -e ' core ' -e mqueue -e total | sed 's/ [A-Z][a-z][a-z] .*[0-9] / /'; echo x > /dev/null; head -c 3 /dev/zero | wc -c;"
        " grep -c ' /dev' /proc/mounts; touch /dev/shm/new /dev/new && echo made"
    )
    before = here.world.sh(spec, look).stdout
    here.world.sh(spec, "rm /dev/shm/new /dev/new")
    here.world.ns.freeze(spec.id)
    images = dumped(here, spec, tmp_path / "d")
    here.world.ns.delete(spec.id)
    pid = there.restore(spec, images)
    there.criu.release(images)
    there.world.ns.adopt(spec.id, pid)
    assert there.world.sh(spec, look).stdout == before


def test_the_hosts_devices_stay_the_hosts(nodes: tuple[Node, Node]) -> None:
    here, _ = nodes
    owners = {name: Path("/dev", name).stat().st_uid for name in ("null", "zero", "full", "random", "urandom", "tty")}
    here.world.up("sleep", "600")
    assert {name: Path("/dev", name).stat().st_uid for name in owners} == owners == dict.fromkeys(owners, 0)
