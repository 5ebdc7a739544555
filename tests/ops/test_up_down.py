"""``ops/up`` and ``ops/down`` from end to end, beside whatever else runs on this machine: a home, an id and a network of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostler.core.names import new_id
from hostler.host import mountinfo
from hostler.node.lab.layout import Lab
from hostler.node.lab.leftovers import marked_processes
from hostler.node.lab.supervisor import ProgramState, Supervisor
from hostler.node.lab.up import find_machine

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
PORT = 8650
_LO_UP = "from pyroute2 import IPRoute\nwith IPRoute() as ip: ip.link('set', index=1, state='up')"


@dataclass(frozen=True)
class Apart:
    """An installation in a network namespace that stands for a machine of its own."""

    lab: Lab
    netns: Path

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command on that machine."""
        env = {"PATH": os.environ["PATH"], "HOME": "/root"}
        told = subprocess.run(["nsenter", f"--net={self.netns}", "--", *command], capture_output=True, text=True, env=env, timeout=150)
        assert not check or told.returncode == 0, f"{command}: {told.stdout}\n{told.stderr}"
        return told

    def ops(self, verb: str, *options: str) -> str:
        """``ops/up`` or ``ops/down`` there."""
        return self.run(ROOT / "ops" / verb, "--home", self.lab.home, "--installation", self.lab.installation, *options).stdout

    def programs(self) -> dict[str, ProgramState]:
        return {state.name: state for state in Supervisor(self.lab).states()}

    def pids(self) -> dict[str, int]:
        return {name: state.pid for name, state in self.programs().items()}

    def left(self) -> list[str]:
        """Everything on this machine that is the installation's, but for its home."""
        word = self.lab.installation
        found = [f"process {pid}" for pid in marked_processes(self.lab.home)]
        found += [f"mount {mount.point}" for mount in mountinfo.read() if self.lab.home in mount.point.parents]
        found += [f"namespace {path.name}" for path in Path("/run/netns").glob(f"*{word}*")]
        found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/*{word}*") if path.is_dir()]
        found += [f"loop {file}" for backing in Path("/sys/block").glob("loop*/loop/backing_file") if str(self.lab.home) in (file := backing.read_text())]
        links = self.run("cat", "/proc/net/dev").stdout.splitlines()[2:]
        return found + [f"link {name}" for line in links if (name := line.split(":")[0].strip()) != "lo" and not name.startswith("ifb")]


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    folder = Path(tempfile.mkdtemp(prefix="hst-up-", dir="/tmp"))
    folder.chmod(0o755)
    netns = folder / "machine"
    netns.touch()
    lab = Lab(checkout=ROOT, machine=find_machine(folder), home=folder / "home", installation=f"t{new_id(6)}", panel_port=PORT)
    made = Apart(lab, netns)
    try:
        subprocess.run(["unshare", f"--net={netns}", "--", sys.executable, "-c", _LO_UP], check=True, timeout=30)
        yield made
    finally:
        try:
            made.ops("down", "--purge")
        finally:
            subprocess.run(["umount", str(netns)], check=True)
            mounted = [mount.point for mount in mountinfo.read() if folder in mount.point.parents]
            assert mounted == []  # or what is mounted would be deleted with the folder
            shutil.rmtree(folder)


def wait_until(done: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    assert callable(done)
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_up_brings_everything_up_and_says_how_to_go_on(apart: Apart) -> None:
    told = apart.ops("up")
    assert {state.state for state in apart.programs().values()} <= {"RUNNING", "STARTING"}
    token = apart.lab.first_login.read_text().strip()
    assert f"login http://127.0.0.1:{PORT} --token {token}" in told
    assert apart.lab.first_login.stat().st_mode & 0o777 == 0o600
    for server in apart.lab.servers:
        assert f"server {server} is online" in told
    assert apart.lab.control.stat().st_mode & 0o777 == 0o700


def test_up_again_changes_nothing_and_is_quick(apart: Apart) -> None:
    before, began = apart.pids(), time.monotonic()
    apart.ops("up")
    assert time.monotonic() - began < 15
    assert apart.pids() == before


def test_a_program_that_dies_is_started_again(apart: Apart) -> None:
    before = apart.pids()
    os.kill(before["node-alpha"], signal.SIGKILL)
    wait_until(lambda: apart.pids()["node-alpha"] not in (0, before["node-alpha"]), 20)
    assert {name for name, pid in apart.pids().items() if pid != before[name]} == {"node-alpha"}


def test_down_works_after_the_supervisor_was_killed_and_leaves_nothing(apart: Apart) -> None:
    os.kill(int(apart.lab.supervisor_pid.read_text()), signal.SIGKILL)
    apart.ops("down")
    assert apart.left() == []
    assert (apart.lab.control / "store.sqlite3").is_file()
    apart.ops("down")


def test_what_was_there_is_there_again_and_purge_deletes_it(apart: Apart) -> None:
    token = apart.lab.first_login.read_text()
    apart.ops("up")
    assert apart.lab.first_login.read_text() == token
    apart.ops("down", "--purge")
    assert apart.left() == []
    assert not apart.lab.home.exists()
    apart.ops("down", "--purge")
