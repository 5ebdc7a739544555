"""The door to cgroups: which hierarchies this host has, where this process is in them, and files in them.

``cgroups(7)``. A cgroup is always named by the absolute path of its folder. Version 1 has a folder for each
hierarchy; the key of a hierarchy here is its controllers' first name (``cpu`` for ``cpu,cpuacct``), ``name=systemd`` for a
named one, and ``unified`` for version 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.host import mountinfo

UNIFIED = "unified"
#: Key under which the watch and the drivers find the memory limit of either version.
MEMORY = "memory"


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy and where this process is in it."""

    key: str
    controllers: tuple[str, ...]
    mount: Path
    own: Path
    """Folder of this process's own cgroup."""


def hierarchies(proc: Path = Path("/proc/self")) -> dict[str, Hierarchy]:
    """Every cgroup hierarchy that is mounted and shows this process's own cgroup."""
    mounts = mountinfo.read(proc / "mountinfo")
    found: dict[str, Hierarchy] = {}
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        controllers = tuple(names.split(",")) if names else ()
        for mount in mounts:
            if mount.kind != ("cgroup" if controllers else "cgroup2"):
                continue
            if controllers and not set(controllers) <= set(mount.super_options):
                continue
            own = _below(mount, path)
            if own is None or not own.is_dir():
                continue
            if not controllers:
                controllers_here = tuple((own / "cgroup.controllers").read_text().split())
                found[UNIFIED] = Hierarchy(UNIFIED, controllers_here, mount.point, own)
            else:
                found[controllers[0]] = Hierarchy(controllers[0], controllers, mount.point, own)
            break
    return found


def _below(mount: mountinfo.Mount, path: str) -> Path | None:
    """Where ``path`` of /proc/self/cgroup is under a mount that may show only a part of its hierarchy."""
    if mount.root == "/":
        return mount.point / path.lstrip("/")
    if path == mount.root or path.startswith(mount.root + "/"):
        return mount.point / path[len(mount.root) :].lstrip("/")
    return None


def read(folder: Path, file: str) -> str:
    """Content of a cgroup's file without the last newline. FileNotFoundError without the cgroup, and while it goes away."""
    try:
        return (folder / file).read_text().rstrip("\n")
    except OSError as error:
        _check_there(error, folder, file)
        raise


def write(folder: Path, file: str, value: str) -> None:
    """One write(2) of ``value``. OSError is passed on: its errno tells what the kernel refused. FileNotFoundError as with :func:`read`."""
    handle = os.open(folder / file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, value.encode())
    except OSError as error:
        _check_there(error, folder, file)
        raise
    finally:
        os.close(handle)


def _check_there(error: OSError, folder: Path, file: str) -> None:
    """ENODEV is said of a file that was open when its cgroup was removed, but also of a block device that is not there."""
    if error.errno == errno.ENODEV and not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the cgroup has just been removed", str(folder / file)) from error


def keyed(folder: Path, file: str) -> dict[str, int]:
    """A flat keyed file such as ``memory.stat``; fields that are no numbers are left out."""
    pairs = (line.split() for line in read(folder, file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def tree(folder: Path) -> list[Path]:
    """``folder`` and all cgroups below it, deepest first; empty when it does not exist."""
    if not folder.is_dir():
        return []
    return [Path(where) for where, _, _ in os.walk(folder, topdown=False)]


def processes(folder: Path) -> list[int]:
    """Host pids in ``folder`` and all below; a cgroup that goes away meanwhile has none."""
    pids: set[int] = set()
    for one in tree(folder):
        with contextlib.suppress(FileNotFoundError):
            pids.update(int(pid) for pid in read(one, "cgroup.procs").split())
    pids.discard(0)  # of a pid namespace that we cannot see
    return sorted(pids)


def move(pid: int, folder: Path) -> bool:
    """Move a process into a cgroup; false when it has ended."""
    try:
        write(folder, "cgroup.procs", str(pid))
    except ProcessLookupError:
        return False
    return True


def expect_moves() -> None:
    """Tell the kernel that a process is about to be moved between cgroups; returns at once.

    The first move after 40 ms of rest waits for an RCU grace period, 8–14 ms (cgroup_threadgroup_rwsem; measured on 6.18
    and gone with the mount option ``favordynmods``). A thread pays for it with a move that changes nothing, while the runtime gets ready.
    """
    threading.Thread(target=_move_nowhere, name="expect-moves", daemon=True).start()


def _move_nowhere() -> None:
    for hierarchy in hierarchies().values():
        with contextlib.suppress(OSError):  # whoever moves in earnest will say what is wrong
            write(hierarchy.own, "cgroup.procs", "0")
        return


def kill_all(folder: Path, timeout: float = 10, *, stop_forks: bool = True) -> None:
    """SIGKILL all in ``folder`` and below until none is left, at most ``timeout`` seconds.

    With ``stop_forks`` new forks are stopped first (``cgroup.kill`` of version 2, ``pids.max`` of version 1's pids hierarchy,
    which stays 0), so that a fork bomb cannot win. What is frozen there in version 1 is let go once it has been killed. Raises :class:`HostFailure` naming what does not die.
    """
    if not folder.is_dir():
        return
    if stop_forks:
        stop_forks_in(folder)
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while pids := processes(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _let_die(folder)
        if time.monotonic() > deadline:
            raise HostFailure(
                f"processes {', '.join(map(str, pids[:10]))} survive SIGKILL for {timeout:g} s",
                hint="they wait in the kernel, most likely for a disk: see /proc/<pid>/stack on the server",
                code="process_stuck",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _let_die(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if read(folder, "freezer.state") != "THAWED":
            write(folder, "freezer.state", "THAWED")


def stop_forks_in(folder: Path) -> None:
    """Let nothing in ``folder`` and below fork any more: as the first step of :func:`kill_all`."""
    for file, value in (("cgroup.kill", "1"), ("pids.max", "0")):
        if (folder / file).exists():
            with contextlib.suppress(FileNotFoundError):
                write(folder, file, value)
            return


def remove(folder: Path, timeout: float = 5) -> None:
    """Remove an empty cgroup and all below it; none is a success.

    The kernel says EBUSY for an instant after the last process has gone. Raises :class:`HostFailure` after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    for one in tree(folder):
        while True:
            try:
                one.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise HostFailure(
                        f"cannot remove cgroup {one}: {error.strerror}", code="cgroup_stuck",
                        hint="something is still in it: read its cgroup.procs",
                    ) from error
                time.sleep(0.001)
            else:
                break


def oom_kills(folders: Mapping[str, str]) -> int:
    """Processes killed by the memory limit since the cgroup was made; ``folders`` as in ``contracts.limits.Cgroup.parents``.

    ``oom_kill`` of ``memory.oom_control`` (version 1) or of ``memory.events`` (version 2). FileNotFoundError without the cgroup.
    """
    if MEMORY in folders:
        return keyed(Path(folders[MEMORY]), "memory.oom_control").get("oom_kill", 0)
    return keyed(Path(folders[UNIFIED]), "memory.events").get("oom_kill", 0)


def pressure(folder: Path, resource: str) -> float | None:
    """Percent of the last ten seconds in which some process there waited for ``cpu``, ``memory`` or ``io``.

    ``some avg10`` of the pressure stall information, which version 2 alone has. None where the kernel keeps it not (built without,
    off by ``psi=0`` or ``cgroup.pressure``). FileNotFoundError without the cgroup.
    """
    try:
        text = read(folder, f"{resource}.pressure")
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return None
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return None
    for line in text.splitlines():
        kind, *pairs = line.split()
        if kind == "some":
            return float(dict(pair.split("=", 1) for pair in pairs)["avg10"])
    return None


def memory_limit(folders: Mapping[str, str]) -> int | None:
    """The memory limit in bytes, None when there is none. FileNotFoundError without the cgroup."""
    if MEMORY in folders:
        value = int(read(Path(folders[MEMORY]), "memory.limit_in_bytes"))
        return None if value >= 1 << 62 else value
    text = read(Path(folders[UNIFIED]), "memory.max")
    return None if text == "max" else int(text)
