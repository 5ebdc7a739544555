"""What keeps a container from being checkpointed, found in /proc without touching it.

CRIU finds out too, but only with the container frozen, and says it in its own words. https://criu.org/What_cannot_be_checkpointed
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostler.contracts.checkpoint import Obstacle, Shape
from hostler.host import cgroups, lxcfs

#: Anonymous inodes that cannot be taken along → what they are called.
_ANONYMOUS = {"[io_uring]": "an io_uring", "[perf_event]": "a performance counter", "bpf-map": "a BPF map", "bpf-prog": "a BPF program", "[userfaultfd]": "a userfaultfd",
              "[fanotify]": "a fanotify watch", "[secretmem]": "secret memory", "kvm-vm": "a virtual machine"}
#: Character devices that CRIU knows how to open again (major numbers): mem, tty, ptys.
_MAJORS = frozenset({1, 5, 136, 137, 138, 139, 140, 141, 142, 143})


@dataclass(frozen=True)
class _Process:
    pid: int
    name: str


def find(shape: Shape) -> list[Obstacle]:
    """See :meth:`hostler.contracts.checkpoint.Checkpoint.examine`."""
    namespace = _namespace(shape.pid, "pid")
    found: list[Obstacle] = []
    for pid in _pids(shape):
        try:
            found += _of_process(_Process(pid, Path(f"/proc/{pid}/comm").read_text().strip()), shape, namespace)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def strangers(shape: Shape) -> list[Obstacle]:
    """Processes in the container's cgroup that do not descend from its init. CRIU would leave them out without a word."""
    found = []
    for pid in _pids(shape):
        try:
            if not _below(pid, shape.pid):
                found.append(_outside(_Process(pid, Path(f"/proc/{pid}/comm").read_text().strip())))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def _pids(shape: Shape) -> list[int]:
    folder = next((Path(shape.cgroups[key]) for key in ("pids", "unified") if key in shape.cgroups), None)
    return cgroups.processes(folder) if folder is not None else [shape.pid]


def _outside(process: _Process) -> Obstacle:
    return Obstacle(
        code="outside_process", message=f"process {process.pid} ({process.name}) was started from outside of the container",
        remedy="a command run by exec or a console is open: wait until it has ended",
    )


def _of_process(process: _Process, shape: Shape, namespace: str) -> Iterator[Obstacle]:
    status = _status(process.pid)
    if _namespace(process.pid, "pid") != namespace or not _below(process.pid, shape.pid):
        yield _outside(process)
        return
    if status.get("TracerPid", "0") != "0":
        yield Obstacle(code="traced", message=f"process {process.pid} ({process.name}) is being traced", remedy="end the debugger")
    for kind in ("user", "net"):
        if _namespace(process.pid, kind) != _namespace(shape.pid, kind):
            yield Obstacle(
                code="nested_namespace", message=f"process {process.pid} ({process.name}) has a {kind} namespace of its own",
                remedy="end the container or sandbox that runs inside of this one",
            )
    yield from _of_files(process, set(lxcfs.bound(shape.pid).values()))


def _of_files(process: _Process, views: set[tuple[int, int]]) -> Iterator[Obstacle]:
    """``views``: device numbers of the file systems that show a container its limits, and are taken away for the checkpoint."""
    folder = Path(f"/proc/{process.pid}/fd")
    for entry in os.listdir(folder):
        try:
            target = os.readlink(folder / entry)
            info = (folder / entry).stat()
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # a file of a dead lxcfs
                raise
            yield _of_view(process, target)
            continue
        if (os.major(info.st_dev), os.minor(info.st_dev)) in views:
            yield _of_view(process, target)
        what = next((name for kind, name in _ANONYMOUS.items() if target.startswith("anon_inode:") and kind in target), None)
        if what is not None:
            yield Obstacle(code="io_uring" if "io_uring" in what else "special_file", message=f"process {process.pid} ({process.name}) has {what} open",
                           remedy="end the program, or have it run without")
        elif target.startswith("/dev/") and info.st_rdev and os.major(info.st_rdev) not in _MAJORS:
            yield Obstacle(code="device", message=f"process {process.pid} ({process.name}) has the device {target} open", remedy="close it")


def _of_view(process: _Process, target: str) -> Obstacle:
    return Obstacle(
        code="limits_file", message=f"process {process.pid} ({process.name}) keeps {target} open, through which it sees the container's limits",
        remedy="end it: programs such as top keep such files open",
    )


def _below(pid: int, init: int) -> bool:
    """Whether a process descends from the container's init."""
    for _ in range(4096):
        if pid == init:
            return True
        if pid <= 1:
            return False
        pid = int(_status(pid).get("PPid", "0"))
    return False


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")
