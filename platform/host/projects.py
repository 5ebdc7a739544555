"""Project quotas of ext4 and xfs: bytes and files counted by a number that a folder gives to all that is made in it.

``ioctl_fsxattr`` (``include/uapi/linux/fs.h``), ``quotactl_fd(2)`` (Linux ≥ 5.14), ``include/uapi/linux/quota.h``. A tenant in a user
namespace cannot change the number. Functions raise :class:`OSError`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass

from hostler.host.mountinfo import Mount

_libc = ctypes.CDLL(None, use_errno=True)
#: The same number on all architectures but alpha (``include/uapi/asm-generic/unistd.h``).
_QUOTACTL_FD = 443
_PROJECT = 2
_GET, _SET = 0x800007, 0x800008
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C581F, 0x401C5820
_INHERIT = 0x200
#: ``struct fsxattr``: flags, extent size, extents, project, extent size for copies.
_ATTRIBUTES = struct.Struct("=5I8x")
#: ``struct if_dqblk``: hard and soft limit of blocks (1 KiB), bytes in use, the same of files, two times, what is valid.
_QUOTA = struct.Struct("=8QI4x")
_BLOCK_LIMITS = 1
_BLOCK = 1024
_OPTIONS = frozenset({"prjquota", "pquota"})


@dataclass(frozen=True)
class Count:
    """Bytes and files in use, and how many bytes there may be."""

    used: int
    files: int
    limit: int | None


def enforced_on(mount: Mount) -> bool:
    """Whether a mount's file system holds projects to their limits, as its options say."""
    return mount.kind in ("ext4", "xfs") and not _OPTIONS.isdisjoint(mount.super_options)


def project_of(folder: int) -> int:
    """The number of what ``folder`` is a descriptor of; 0 is nobody's."""
    return int(_ATTRIBUTES.unpack(_attributes(folder))[3])


def set_project(folder: int, project: int) -> None:
    """Give an empty folder a number, and all that will be made in it."""
    fcntl.ioctl(folder, _SET_ATTRIBUTES, with_project(_attributes(folder), project))


def with_project(attributes: bytes, project: int) -> bytes:
    """``struct fsxattr`` with the number, to be inherited."""
    flags, extent, extents, _, copied = _ATTRIBUTES.unpack(attributes)
    return _ATTRIBUTES.pack(flags | _INHERIT, extent, extents, project, copied)


def _attributes(folder: int) -> bytes:
    return fcntl.ioctl(folder, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))


def count(fd: int, project: int) -> Count:
    """What a project has on the file system of ``fd``."""
    buffer = ctypes.create_string_buffer(_QUOTA.size)
    _quotactl(fd, _GET, project, buffer)
    return counted(buffer.raw)


def counted(quota: bytes) -> Count:
    """``struct if_dqblk`` as a count."""
    hard, _, used, _, _, files, *_ = _QUOTA.unpack(quota)
    return Count(used, files, hard * _BLOCK or None)


def limit(fd: int, project: int, size: int | None) -> None:
    """Hold a project to ``size`` bytes, rounded down to KiB but never to none; None lifts the limit."""
    data = limiting(size)
    _quotactl(fd, _SET, project, ctypes.create_string_buffer(data, len(data)))


def limiting(size: int | None) -> bytes:
    """``struct if_dqblk`` that sets a limit of blocks, and leaves that of files alone. 0 would be no limit."""
    blocks = 0 if size is None else max(1, size // _BLOCK)
    return _QUOTA.pack(blocks, 0, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)


def _quotactl(fd: int, command: int, project: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    if _libc.syscall(_QUOTACTL_FD, fd, command << 8 | _PROJECT, project, buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
