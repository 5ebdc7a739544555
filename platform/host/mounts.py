"""Mounting and unmounting: ``mount(2)`` and ``umount2(2)``, without starting a program.

``os.path.ismount`` misses binds within one file system; whether something is mounted is read from
``/proc/self/mountinfo`` (:mod:`hostler.host.mountinfo`).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path

from hostler.core.errors import HostFailure
from hostler.host import mountinfo
from hostler.host.mountinfo import Mount

_libc = ctypes.CDLL(None, use_errno=True)
#: The same numbers on all architectures but alpha (``include/uapi/asm-generic/unistd.h``).
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_SET_STRING, _CREATE = 1, 6
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
#: What reading about a process says that has ended; EINVAL is its mountinfo once it is a zombie.
_ENDED = frozenset({errno.ENOENT, errno.ESRCH, errno.EINVAL})


class Flags(IntFlag):
    """``mount(2)`` flags (``include/uapi/linux/mount.h``)."""

    NONE = 0
    READ_ONLY = 1
    NO_SUID = 2
    NO_DEV = 4
    NO_EXEC = 8
    REMOUNT = 32
    NO_ATIME = 1024
    BIND = 4096
    RECURSIVE = 16384
    PRIVATE = 1 << 18
    SLAVE = 1 << 19


def at(point: Path) -> Mount | None:
    """The uppermost mount at exactly ``point``; links in the path are followed."""
    place = point.resolve()
    found = [mount for mount in mountinfo.read() if mount.point == place]
    return found[-1] if found else None


def is_mounted(point: Path) -> bool:
    """Whether something is mounted at exactly ``point``."""
    return at(point) is not None


def mounts_below(folder: Path) -> list[Mount]:
    """Mounts at or below ``folder``, those made last first: the order in which they can be unmounted."""
    place = folder.resolve()
    return [mount for mount in reversed(mountinfo.read()) if place == mount.point or place in mount.point.parents]


def mount_holding(path: Path) -> Mount:
    """The mount that ``path`` lies on, or would lie on: the nearest existing folder above counts."""
    place = path.resolve()
    holders = [mount for mount in mountinfo.read() if mount.point == place or mount.point in place.parents]
    if not holders:
        raise HostFailure(f"{path} lies on no mount of this process", hint="is /proc mounted?", code="mount_failed")
    deepest = max(len(mount.point.parts) for mount in holders)
    return [mount for mount in holders if len(mount.point.parts) == deepest][-1]


def mount(source: str | Path, target: Path, fstype: str, flags: Flags = Flags.NONE, options: str = "") -> None:
    """Mount a file system on the existing folder ``target``. Raises :class:`HostFailure`."""
    words = [os.fsencode(source), os.fsencode(target), fstype.encode(), options.encode()]
    if _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        raise _failed(ctypes.get_errno(), f"mount {source} ({fstype}) on {target}")


def bind(source: Path, target: Path, *, recursive: bool = False) -> None:
    """Make ``source`` visible at ``target`` too. Raises :class:`HostFailure`."""
    mount(source, target, "none", Flags.BIND | (Flags.RECURSIVE if recursive else Flags.NONE))


def kernel_has(fstype: str) -> bool:
    """Whether the kernel can mount a file system of that type. Its module is loaded for that, as ``mount(2)`` would; who may not mount
    is told of those that are loaded."""
    context = _libc.syscall(_FSOPEN, fstype.encode(), 1)
    if context >= 0:
        os.close(context)
        return True
    if ctypes.get_errno() != errno.EPERM:
        return False
    return fstype in {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}


def try_mount(fstype: str, options: Mapping[str, str]) -> None:
    """Make a file system and let it go at once, without mounting it anywhere: whether the kernel would.

    Values are at most 255 bytes. Raises :class:`OSError` with the kernel's reason. Linux ≥ 5.2.
    """
    context = _checked(_libc.syscall(_FSOPEN, fstype.encode(), 1))
    try:
        for key, value in options.items():
            _checked(_libc.syscall(_FSCONFIG, context, _SET_STRING, key.encode(), os.fsencode(value), 0))
        _checked(_libc.syscall(_FSCONFIG, context, _CREATE, None, None, 0))
        os.close(_checked(_libc.syscall(_FSMOUNT, context, 1, 0)))
    finally:
        os.close(context)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def unmount(point: Path, *, lazy: bool = False) -> None:
    """Unmount all that is at ``point``; nothing there is a success.

    A busy one raises :class:`HostFailure` with code ``mount_busy``; with ``lazy`` it is detached and goes when its
    last user does.
    """
    while is_mounted(point):
        if _libc.umount2(os.fsencode(point), _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)):
            number = ctypes.get_errno()
            if number == errno.EBUSY:
                raise HostFailure(
                    f"{point} cannot be unmounted: it is in use", code="mount_busy",
                    hint="end what uses it: `fuser -vm` on the folder tells",
                )
            if number != errno.EINVAL:  # EINVAL: another thread has unmounted it
                raise _failed(number, f"unmount {point}")


def users_of(device: tuple[int, int], root: str | None = None, *, but_at: Path | None = None) -> list[int]:
    """Processes in whose mount namespaces a file system is mounted: any folder of it, or ``root`` and what is below.

    One process for each namespace, our own left out: a container's mounts are in its own. Mounts at ``but_at`` do not count:
    other services' namespaces have copies of the host's. Reads one file for each namespace.
    """
    seen, found = {os.readlink("/proc/self/ns/mnt")}, []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            namespace = _namespace_of(entry)
            if namespace in seen:
                continue
            mounted = mountinfo.read(Path(f"/proc/{entry}/mountinfo"))
        except OSError as error:
            if error.errno in _ENDED:
                continue
            raise
        seen.add(namespace)
        there = [mount for mount in mounted if mount.device == device and mount.point != but_at]
        if any(root is None or _within(mount.root, root) for mount in there):
            found.append(int(entry))
    return found


def _namespace_of(process: str) -> str:
    """A process with capabilities that we lack does not show its namespaces, but its mounts: it counts as one of its own."""
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except PermissionError:
        return process


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _failed(number: int, doing: str) -> HostFailure:
    return HostFailure(
        f"cannot {doing}: {os.strerror(number)}", code="mount_failed",
        hint="the kernel's log (dmesg) often says more",
    )
