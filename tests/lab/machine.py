"""A whole installation on a machine of its own: a network namespace, a home below /tmp and an id that nothing else has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostler.core.names import new_id
from hostler.host import mountinfo
from hostler.node.lab.layout import Lab
from hostler.node.lab.leftovers import marked_processes
from hostler.node.lab.supervisor import ProgramState, Supervisor
from hostler.node.lab.up import find_machine

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
        """What supervisord says of each program, by name."""
        return {state.name: state for state in Supervisor(self.lab).states()}

    def pids(self) -> dict[str, int]:
        """Pids of the programs, by name."""
        return {name: state.pid for name, state in self.programs().items()}

    def left(self) -> list[str]:
        """Everything on this machine that is the installation's, but for its home."""
        word = self.lab.installation
        found = [f"process {pid}" for pid in marked_processes(self.lab.home)]
        found += [f"mount {mount.point}" for mount in mountinfo.read() if self.lab.home in mount.point.parents]
        found += [f"namespace {path.name}" for path in Path("/run/netns").glob(f"*{word}*")]
        found += [f"file {path}" for path in Path("/run").glob(f"*{word}*")]
        found += [f"cgroup {path}" for path in cgroup_folders(word)]
        found += [f"process {pid} of cgroup {group}" for pid, group in cgroup_members(word)]
        found += [f"loop {file}" for backing in Path("/sys/block").glob("loop*/loop/backing_file") if str(self.lab.home) in (file := backing.read_text())]
        links = self.run("cat", "/proc/net/dev").stdout.splitlines()[2:]
        found += [f"link {name}" for line in links if (name := line.split(":")[0].strip()) != "lo" and not name.startswith("ifb")]
        return found + [f"nftables: {line}" for line in self.run("nft", "list", "tables").stdout.splitlines()]


def cgroup_folders(word: str) -> list[Path]:
    """Every cgroup with ``word`` in its name, in all hierarchies."""
    return [Path(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup") for name in names if word in name]


def cgroup_members(word: str) -> list[tuple[int, str]]:
    """Processes in a cgroup with ``word`` in its path; not those that have ended and wait for their parent to look."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "stat").read_text().rpartition(") ")[2][0] == "Z":
                    continue
                lines = (entry / "cgroup").read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            found += [(int(entry.name), group) for group in {line.split(":", 2)[2] for line in lines} if word in group]
    return found


@contextmanager
def apart(prefix: str) -> Iterator[Apart]:
    """A machine, and the installation that may come up on it; both gone afterwards, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
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


def wait_until(done: Callable[[], object], seconds: float, what: str = "it did not happen in time") -> None:
    """Return as soon as ``done`` says so."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
