"""What keeps a container from being checkpointed, found in /proc without touching it.

CRIU finds out too, but only with the container frozen, and says it in its own words. What is here was tried with CRIU 4.2: each obstacle makes
a dump fail, and what is none comes back (tests/plugins/checkpoint/test_obstacles.py). https://criu.org/What_cannot_be_checkpointed
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from hostler.contracts.checkpoint import Obstacle, Shape
from hostler.core.units import MIB, format_size
from hostler.host import cgroups, lxcfs
from hostler_plugins.checkpoint import sockets

#: Bytes of a deleted file that are taken along (``--ghost-limit``).
GHOST_LIMIT: Final = 64 * MIB
#: Anonymous inodes that cannot be taken along → what they are called.
_ANONYMOUS = {"[io_uring]": "an io_uring", "[perf_event]": "a performance counter", "bpf-map": "a BPF map", "bpf-prog": "a BPF program", "[userfaultfd]": "a userfaultfd",
              "kvm-vm": "a virtual machine"}
#: Character devices that CRIU knows how to open again (major numbers): mem, tty, ptys.
_MAJORS = frozenset({1, 5, 136, 137, 138, 139, 140, 141, 142, 143})
#: Namespaces that the whole container must share; a mount namespace of one's own comes back.
_SHARED = {"user": "user", "net": "net", "uts": "uts", "ipc": "ipc", "cgroup": "cgroup", "pid_for_children": "pid", "time_for_children": "time"}
_DELETED = " (deleted)"
#: Files without a name that are memory, and come back.
_MEMORY = ("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage", "/[aio]")
_SECRET = "/secretmem"
_END = "end the program, or have it run without"


@dataclass(frozen=True)
class _Process:
    pid: int
    name: str

    def says(self, code: str, what: str, remedy: str) -> Obstacle:
        return Obstacle(code=code, message=f"process {self.pid} ({self.name}) {what}", remedy=remedy)


@dataclass
class _Search:
    """One look at a container. A socket or a deleted file that several processes have is told once."""

    shape: Shape
    seen: set[tuple[int, int]] = field(default_factory=set)

    @cached_property
    def namespaces(self) -> dict[str, str]:
        """Of the container's init."""
        return {kind: _namespace(self.shape.pid, kind) for kind in _SHARED}

    @cached_property
    def views(self) -> set[tuple[int, int]]:
        """Device numbers of the file systems that show a container its limits, and are taken away for the checkpoint."""
        return set(lxcfs.bound(self.shape.pid).values())

    @cached_property
    def mounts(self) -> set[str]:
        """Ids of the container's mounts."""
        return _mount_ids(self.shape.pid)

    def first(self, info: os.stat_result) -> bool:
        """Whether that file was not looked at yet."""
        key = (info.st_dev, info.st_ino)
        new = key not in self.seen
        self.seen.add(key)
        return new


def find(shape: Shape) -> list[Obstacle]:
    """See :meth:`hostler.contracts.checkpoint.Checkpoint.examine`."""
    search = _Search(shape)
    found: list[Obstacle] = []
    for pid in _pids(shape):
        try:
            found += _of_process(_Process(pid, Path(f"/proc/{pid}/comm").read_text().strip()), search)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return [*found, *_of_queues(shape)]


def strangers(shape: Shape) -> list[Obstacle]:
    """Of a frozen container: processes in its cgroup that do not descend from its init, which CRIU would leave out without a word, and
    those that a signal has stopped, for which it would wait in vain."""
    found = []
    for pid in _pids(shape):
        try:
            process = _Process(pid, Path(f"/proc/{pid}/comm").read_text().strip())
            if not _below(pid, shape.pid):
                found.append(_outside(process))
            elif _is_stopped(pid):
                found.append(_stopped(process))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def _pids(shape: Shape) -> list[int]:
    folder = next((Path(shape.cgroups[key]) for key in ("pids", "unified") if key in shape.cgroups), None)
    return cgroups.processes(folder) if folder is not None else [shape.pid]


def _outside(process: _Process) -> Obstacle:
    return process.says("outside_process", "was started from outside of the container", "a command run by exec or a console is open: wait until it has ended")


def _is_stopped(pid: int) -> bool:
    """In a frozen cgroup of version 1 a stopped process looks like any other, but for where it sleeps."""
    return _status(pid).get("State", "").startswith("T") or Path(f"/proc/{pid}/wchan").read_text() == "do_signal_stop"


def _is_ending(pid: int) -> bool:
    """Whether it is on its way out: it gives its namespaces back before it is a zombie, and its memory before those."""
    return not _status(pid).get("VmSize")


def _stopped(process: _Process) -> Obstacle:
    return process.says("stopped", "is stopped by a signal, as by Ctrl-Z in a shell", "let it go on (fg, or kill -CONT), or end it")


def _of_process(process: _Process, search: _Search) -> Iterator[Obstacle]:
    status = _status(process.pid)
    if status.get("State", "").startswith(("Z", "X")):
        return  # it has nothing any more
    if not _below(process.pid, search.shape.pid):
        yield _outside(process)
        return
    if status.get("TracerPid", "0") != "0":
        yield process.says("traced", "is being traced", "end the debugger")
    elif _is_stopped(process.pid):
        yield _stopped(process)
    other = [name for kind, name in _SHARED.items() if _namespace(process.pid, kind) != search.namespaces[kind]]
    if other and _is_ending(process.pid):
        return  # it has let go of them already
    if other:
        yield process.says("nested_namespace", f"has a {' and '.join(other)} namespace of its own", "end the container or sandbox that runs inside of this one")
        return
    yield from _of_descriptors(process, search)
    yield from _of_memory(process, search)


def _of_descriptors(process: _Process, search: _Search) -> Iterator[Obstacle]:
    folder = Path(f"/proc/{process.pid}/fd")
    mounts = search.mounts | _mount_ids(process.pid)
    handle = os.pidfd_open(process.pid)
    try:
        for entry in os.listdir(folder):
            try:
                target = os.readlink(folder / entry)
                info = (folder / entry).stat()
                yield from _of_descriptor(process, search, int(entry), handle, mounts, target, info)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # a file of a dead lxcfs
                    raise
                yield _of_view(process, target)
    finally:
        os.close(handle)


def _of_descriptor(
    process: _Process, search: _Search, number: int, handle: int, mounts: set[str], target: str, info: os.stat_result
) -> Iterator[Obstacle]:
    if stat.S_ISSOCK(info.st_mode):
        if search.first(info) and (asked := sockets.look(handle, number)) is not None and (bad := sockets.against(*asked)) is not None:
            yield process.says("socket", f"has {bad[0]} open", bad[1])
    elif target.startswith("anon_inode:"):
        what = next((name for kind, name in _ANONYMOUS.items() if kind in target), None)
        if what is not None:
            yield process.says("io_uring" if "io_uring" in what else "special_file", f"has {what} open", _END)
    elif stat.S_ISBLK(info.st_mode) or (stat.S_ISCHR(info.st_mode) and os.major(info.st_rdev) not in _MAJORS):
        yield process.says("device", f"has the device {target} open", "close it")
    elif (os.major(info.st_dev), os.minor(info.st_dev)) in search.views:
        yield _of_view(process, target)
    elif target.startswith("/") and (not target.endswith(_DELETED) or search.first(info)):
        yield from _of_file(process, target, info, _mount_of(process.pid, number) in mounts)


def _of_file(process: _Process, target: str, info: os.stat_result, inside: bool) -> Iterator[Obstacle]:
    """``inside``: it lies in a mount of the container's."""
    if target.startswith(_SECRET):
        yield process.says("secret_memory", "has secret memory, which nobody else may read", _END)
    elif target.startswith(_MEMORY):
        return
    elif not inside:
        yield process.says("external_file", f"has {target} open, which lies outside of the container", "close it; a message queue of POSIX is such a file too")
    elif target.endswith(_DELETED) and stat.S_ISREG(info.st_mode) and not _is_named(process, target, info):
        yield from _of_deleted(process, target.removesuffix(_DELETED), info)


def _of_deleted(process: _Process, name: str, info: os.stat_result) -> Iterator[Obstacle]:
    """A deleted file that is in use is taken along by its content, unless it is large or has another name."""
    if info.st_nlink > 0:
        yield process.says("deleted_file", f"uses {name}, which was deleted and has another name", "restart the program, or give the file its name back")
    elif info.st_blocks * 512 > GHOST_LIMIT:
        size = format_size(info.st_blocks * 512)
        yield process.says("deleted_file", f"uses {name}, which was deleted and has {size}", f"restart the program: deleted files of up to {format_size(GHOST_LIMIT)} are taken along")


def _of_memory(process: _Process, search: _Search) -> Iterator[Obstacle]:
    """Files that are mapped, programs and libraries included: after an upgrade those of programs that still run are deleted ones."""
    for line in Path(f"/proc/{process.pid}/maps").read_text(errors="surrogateescape").splitlines():
        if _SECRET not in line and not line.endswith(_DELETED):
            continue
        area, *_, name = line.split(None, 5)
        if name.startswith(_MEMORY):
            continue
        try:
            info = Path(f"/proc/{process.pid}/map_files/{_short(area)}").stat()
        except FileNotFoundError:
            continue  # unmapped meanwhile
        if search.first(info):
            yield from _of_file(process, name, info, True)


def _short(area: str) -> str:
    """The name of a mapping in map_files: as in maps, but without the zeros before."""
    return "-".join(f"{int(end, 16):x}" for end in area.split("-"))


def _of_queues(shape: Shape) -> Iterator[Obstacle]:
    """Message queues of POSIX, whose content CRIU does not know."""
    try:
        names = os.listdir(f"/proc/{shape.pid}/root/dev/mqueue")
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return
    if names:
        yield Obstacle(code="message_queue", message=f"there are message queues in /dev/mqueue: {', '.join(sorted(names)[:4])}", remedy="end the program that uses them, and remove them")


def _of_view(process: _Process, target: str) -> Obstacle:
    return process.says("limits_file", f"keeps {target} open, through which it sees the container's limits", "end it: programs such as top keep such files open")


def _is_named(process: _Process, target: str, info: os.stat_result) -> bool:
    """Whether the file is really called so."""
    try:
        return os.path.samestat(os.stat(f"/proc/{process.pid}/root{target}", follow_symlinks=False), info)
    except OSError:
        return False


def _mount_ids(pid: int) -> set[str]:
    return {line.split(None, 1)[0] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}


def _mount_of(pid: int, number: int) -> str:
    lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")


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
    """Empty where the kernel does not have that kind."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}/ns"):
            return ""
        raise
