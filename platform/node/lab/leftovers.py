"""What a crash can leave of a lab: processes without a supervisor, mounts and loop devices below its home."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.host import mountinfo
from hostler.host.process import run
from hostler.node.lab.layout import MARK, Lab


def marked_processes(home: Path, proc: Path = Path("/proc")) -> list[int]:
    """Pids of the processes that a supervisor of the installation in ``home`` started, and of that supervisor.

    They are known by a variable in their environment that nothing but our supervisord is given. The caller itself and what it descends from are left out.
    """
    wanted = f"{MARK}={home}".encode()
    own = _ancestors(proc)
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended, or is a kernel thread's
        if wanted in environment.split(b"\0"):
            found.append(int(entry.name))
    return sorted(found)


def _ancestors(proc: Path) -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        try:
            stat = (proc / str(pid) / "stat").read_text()
        except FileNotFoundError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
    return pids


def end_processes(home: Path, patience: float = 10) -> int:
    """End what :func:`marked_processes` finds: SIGTERM, and SIGKILL after ``patience`` seconds. How many there were."""
    first = marked_processes(home)
    left = _signal_all(home, first, signal.SIGTERM, patience)
    left = _signal_all(home, left, signal.SIGKILL, 5)
    if left:
        raise HostFailure(f"processes {left} do not end even when killed", hint="they hang in the kernel: see their state in ps")
    return len(first)


def _signal_all(home: Path, pids: list[int], number: int, seconds: float) -> list[int]:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = marked_processes(home)
    return left


def unmount_below(home: Path) -> list[Path]:
    """Unmount everything mounted below ``home``, last made first; what was unmounted."""
    points = [mount.point for mount in mountinfo.read() if home in mount.point.parents]
    for point in reversed(points):
        if run(["umount", point], check=False).returncode != 0:
            run(["umount", "--lazy", point])
    return points


def detach_loops(home: Path, sys_block: Path = Path("/sys/block")) -> list[str]:
    """Detach loop devices whose file lies below ``home``; their names."""
    detached = []
    for backing in sys_block.glob("loop*/loop/backing_file"):
        file = Path(backing.read_text().strip().removesuffix(" (deleted)"))
        if home in file.parents:
            device = f"/dev/{backing.parent.parent.name}"
            run(["losetup", "--detach", device])
            detached.append(device)
    return detached


def clear(lab: Lab) -> None:
    """Mounts and loop devices."""
    unmount_below(lab.home)
    detach_loops(lab.home)
