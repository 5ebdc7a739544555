"""A container that sees its own limits is checkpointed, and goes on where there is no lxcfs, and where there is one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostler.core.errors import Conflict
from hostler.host import lxcfs, mounts
from tests.plugins.checkpoint.conftest import Node
from tests.plugins.checkpoint.test_criu import dumped, frozen
from tests.plugins.ns.world import eventually

pytestmark = pytest.mark.lab


@contextmanager
def served(node: Node) -> Iterator[None]:
    """The node has an lxcfs for the block."""
    if shutil.which("lxcfs") is None:
        pytest.skip("lxcfs is not installed")
    host = node.world.host
    env = os.environ | {"HOSTLER_NODE": host.node, "HOSTLER_NODE_STATE": str(host.state_dir), "HOSTLER_INSTALLATION": host.installation}
    point = lxcfs.mount_point(host)
    process = subprocess.Popen([sys.executable, "-m", "hostler.node.lxcfs"], env=env, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: lxcfs.answering(point) is not None, 10)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        mounts.unmount(point, lazy=True)


@pytest.mark.parametrize("there_too", [False, True], ids=["from-one", "from-one-to-another"])
def test_a_container_with_views_moves(nodes: tuple[Node, Node], tmp_path: Path, there_too: bool) -> None:
    here, there = nodes
    with served(here):
        spec = frozen(here)
        images = dumped(here, spec, tmp_path / "d")
        here.world.ns.thaw(spec.id)
        pid = here.world.ns.inspect(spec.id).pid
        assert pid and lxcfs.bound(pid), "it sees its limits again"
        here.world.ns.delete(spec.id)
        if there_too:
            with served(there):
                _arrives(there, spec.id, there.restore(spec, images), images, seen=True)
        else:
            _arrives(there, spec.id, there.restore(spec, images), images, seen=False)


def _arrives(node: Node, container: str, pid: int, images: Path, *, seen: bool) -> None:
    node.criu.release(images)
    node.world.ns.adopt(container, pid)
    assert bool(lxcfs.bound(pid)) == seen
    said = node.world.sh(node.world.made[container], "cat /proc/meminfo /proc/uptime")
    assert said.exit_code == 0 and said.stdout.startswith("MemTotal:")


def test_a_program_that_keeps_such_a_file_open_is_named(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    here, _ = nodes
    with served(here):
        spec = here.world.up("sh", "-c", "exec 3</proc/meminfo; read first <&3; touch /tmp/open; while :; do sleep 1; done")
        eventually(lambda: (here.world.root_of(spec) / "tmp/open").exists())
        obstacles = here.criu.examine(here.world.ns.shape(spec.id))  # of the shell, and of its sleep, which inherits it
        assert {one.code for one in obstacles} == {"limits_file"}
        assert all("keeps /proc/meminfo open" in one.message and one.remedy for one in obstacles)
        here.world.ns.freeze(spec.id)
        with pytest.raises(Conflict, match="cannot be checkpointed"):
            dumped(here, spec, tmp_path / "d")
        here.world.ns.thaw(spec.id)
        assert here.world.sh(spec, "cat /proc/meminfo").exit_code == 0
