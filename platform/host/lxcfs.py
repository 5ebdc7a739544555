"""The door to lxcfs: files such as ``/proc/meminfo`` that show a reader the limits of its own container.

https://linuxcontainers.org/lxcfs. One lxcfs serves a server, at :func:`mount_point`. Its files are laid over those of a running
container's ``/proc`` and ``/sys`` from outside, in the container's mount namespace: so they are replaced when lxcfs was started
anew, and taken away when it is dead, which leaves the server's own files to see. Nothing of it is in the runtime's configuration,
and no container ever waits for it.

The list of binds is :func:`views`; which of them a container has now, :func:`bound` tells from the kernel. A frozen container has none,
so that a checkpoint knows nothing of lxcfs, and is restored on a server that has another or none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog

from hostler.contracts.driver import Host, Lack
from hostler.core.errors import HostFailure
from hostler.host import mountinfo
from hostler.host.pidfd import Identity

#: What lxcfs shows of each container. ``slabinfo`` is left out: only the server's root may read it.
FILES = (
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "sys/devices/system/cpu/online",
)
KIND = "fuse.lxcfs"
#: Seconds that lxcfs may take to answer; it takes well under a millisecond.
_PATIENCE = 0.5

_libc = ctypes.CDLL(None, use_errno=True)
# include/uapi/asm-generic/unistd.h, mount.h, fcntl.h, sched.h
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _CLOEXEC, _AT_FDCWD, _EMPTY_PATH = 1, os.O_CLOEXEC, -100, 0x1000
_F_EMPTY_PATH = 4
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
#: struct mount_attr: set MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC; clear nothing, no propagation, no user namespace.
_READ_ONLY = (ctypes.c_uint64 * 4)(1 | 2 | 4 | 8, 0, 0, 0)

log = structlog.get_logger()

_T = TypeVar("_T")
#: Who waits in vain at each mount point: nobody else asks meanwhile.
_late: dict[Path, threading.Thread] = {}


def mount_point(host: Host) -> Path:
    """Where the server's lxcfs is mounted, if it is."""
    return host.state_dir / "lxcfs"


def views(point: Path) -> dict[str, Path]:
    """Path inside of a container → file of the lxcfs at ``point`` that is bound there, read-only."""
    return {f"/{name}": point / name for name in FILES}


def lack(host: Host) -> Lack | None:
    """What tenants miss on this server, in words; None when they see their own limits."""
    if answering(mount_point(host)) is not None:
        return None
    remedy = "start it: ops/up does, or systemctl enable --now hostler-lxcfs@NODE" if shutil.which("lxcfs") else "apt-get install lxcfs"
    return Lack(what="lxcfs, which shows containers their own memory, processors and load in /proc instead of the server's", remedy=remedy)


def bound(pid: int) -> dict[str, tuple[int, int]]:
    """Path inside → device number of the lxcfs whose file is bound there now. OSError when the process has ended."""
    return {str(mount.point): mount.device for mount in mountinfo.read(Path(f"/proc/{pid}/mountinfo")) if mount.kind == KIND}


def answering(point: Path) -> tuple[int, int] | None:
    """Device number of the lxcfs at ``point``; None when there is none, or it is dead, or does not answer in time."""
    place = point.parent.resolve() / point.name  # what is mounted there may hang whoever looks at it
    found = [mount for mount in mountinfo.read() if mount.point == place]
    if not found or found[-1].kind != KIND:
        return None

    def ask() -> bool:
        try:
            return bool(os.listdir(point / "proc"))  # nothing that the kernel remembers, and nothing that takes lxcfs long
        except OSError:  # ENOTCONN: its process is dead
            return False

    return found[-1].device if _in_time(point, ask) else None


def attach(point: Path, init: Identity) -> bool:
    """Lay the files of the lxcfs at ``point`` over those of the container whose first process is ``init``. Idempotent.

    Those of a former lxcfs are replaced. False, with nothing changed, when lxcfs does not answer or ``init`` has ended.
    Raises :class:`HostFailure` when the kernel refuses.
    """
    device = answering(point)
    if device is None:
        return False
    there = _bound_or_none(init)
    if there is None:
        return False
    stale = [path for path, other in there.items() if other != device]
    wanted = {path: source for path, source in views(point).items() if there.get(path) != device}
    return not (stale or wanted) or bool(_in_time(point, lambda: _change(init, stale, wanted)))


def detach(init: Identity) -> None:
    """Take all of lxcfs's files away from a container, whether lxcfs lives or not. Idempotent; nothing to do when ``init`` has ended.

    Raises :class:`HostFailure` when the kernel refuses.
    """
    there = _bound_or_none(init)
    if there:
        _change(init, list(there), {})


def offer(host: Host, init: Identity) -> bool:
    """:func:`attach` for whom it must not hold up: what the kernel refuses goes to the log. Whether the container has the files now."""
    try:
        return attach(mount_point(host), init)
    except HostFailure as failure:
        log.warning("a container sees the server's figures instead of its own", pid=init.pid, error=failure.message)
        return False


def withdraw(init: Identity) -> None:
    """:func:`detach` for whom it must not hold up: what the kernel refuses goes to the log."""
    try:
        detach(init)
    except HostFailure as failure:
        log.warning("a container keeps files of lxcfs", pid=init.pid, error=failure.message)


def _bound_or_none(init: Identity) -> dict[str, tuple[int, int]] | None:
    try:
        found = bound(init.pid)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EINVAL):  # EINVAL: a zombie's
            raise
        return None
    return found if init.alive() else None


def _in_time(point: Path, call: Callable[[], _T]) -> _T | None:
    """What ``call`` returns, or None when it does not in time, or a former one still has not. What it raises is raised.

    A file system in user space may never answer, and who asked cannot be called back: so it is asked by a thread of its own.
    """
    answer: list[_T] = []
    problem: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:
            problem.append(error)

    former = _late.get(point)
    if former is not None and former.is_alive():
        return None
    thread = threading.Thread(target=run, name="lxcfs", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        _late[point] = thread
        return None
    if problem:
        raise problem[0]
    return answer[0]


def _change(init: Identity, drop: list[str], add: dict[str, Path]) -> bool:
    """In the container's mount namespace take away what is at ``drop`` and lay ``add`` over. False when ``init`` has ended."""
    try:
        namespace = os.open(f"/proc/{init.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        return False
    trees: list[tuple[int, str]] = []
    try:
        if not init.alive():
            return False
        if os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/mnt")):
            raise HostFailure(f"process {init.pid} is in the server's own mount namespace", hint="it is no container's", code="wrong_namespace")
        for target, source in add.items():
            trees.append((_tree(source), target))
        failed: list[str] = []
        # The thread is in the container's file system for good, so it does nothing but system calls there, and ends.
        thread = threading.Thread(target=_inside, args=(namespace, drop, trees, failed), name="lxcfs-inside", daemon=True)
        thread.start()
        thread.join()
        if failed and init.alive():
            raise HostFailure(f"cannot show process {init.pid} its limits: {failed[0]}", hint="the kernel's log may say more", code="lxcfs_refused")
        return not failed
    finally:
        os.close(namespace)
        for tree, _ in trees:
            os.close(tree)


def _tree(source: Path) -> int:
    """A descriptor of a read-only bind of ``source`` that is mounted nowhere yet."""
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _CLONE | _CLOEXEC)
    if tree < 0:
        raise _refused(f"open {source}")
    if _libc.syscall(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, ctypes.byref(_READ_ONLY), ctypes.sizeof(_READ_ONLY)):
        problem = _refused(f"make {source} read-only")
        os.close(tree)
        raise problem
    return int(tree)


def _inside(namespace: int, drop: list[str], trees: list[tuple[int, str]], failed: list[str]) -> None:
    if _libc.unshare(_CLONE_FS) or _libc.setns(namespace, _CLONE_NEWNS):
        failed.append(f"entering its mount namespace: {os.strerror(ctypes.get_errno())}")
        return
    for path in drop:
        if _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) and ctypes.get_errno() != errno.EINVAL:
            failed.append(f"unmounting {path}: {os.strerror(ctypes.get_errno())}")
    for tree, path in trees:
        if _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _F_EMPTY_PATH) and ctypes.get_errno() != errno.ENOENT:
            failed.append(f"mounting {path}: {os.strerror(ctypes.get_errno())}")


def _refused(doing: str) -> HostFailure:
    number = ctypes.get_errno()
    return HostFailure(f"cannot {doing}: {os.strerror(number)}", hint="is lxcfs well? its log is the program's", code="lxcfs_refused")
