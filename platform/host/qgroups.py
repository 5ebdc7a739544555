"""Quota groups of btrfs: who is charged for a subvolume's bytes, and how many there may be.

Two ways of counting. *Simple* quotas (Linux ≥ 6.7) charge an extent to the subvolume that first wrote it, for as long as it
lives; a snapshot starts at one metadata block, and subvolumes nested in another join its groups by themselves. *Full*
qgroups find out which extents a subvolume has for itself alone, which gets slow with many snapshots.
https://docs.kernel.org/filesystems/btrfs.html, https://btrfs.readthedocs.io/en/latest/Qgroups.html

A group's id holds its level in the upper 16 bits; level 0 is one subvolume. Functions raise :class:`OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hostler.host import btrfs
from hostler.host.failures import FULL

_SYS = Path("/sys/fs/btrfs")
_QUOTA_TREE = 8
_INFO, _RELATION = 242, 246
_LAST = 2**64 - 1
_MAX_REFERENCED, _MAX_EXCLUSIVE = 1, 2
_NO_LIMIT = _LAST
_ENABLE, _ENABLE_SIMPLE = 1, 4


class Mode(StrEnum):
    """How a file system counts."""

    OFF = "off"
    SIMPLE = "simple"
    FULL = "full"


@dataclass(frozen=True)
class Charge:
    """Bytes charged to a group, what is being written included, and its limit. Counters follow deletions within one
    commit interval (30 s unless mounted otherwise)."""

    used: int
    limit: int | None


def group_id(level: int, number: int) -> int:
    """The id of group ``level/number``."""
    return level << 48 | number


def simple_known() -> bool:
    """Whether this kernel has simple quotas."""
    return (_SYS / "features/simple_quota").exists()


def mode(fd: int) -> Mode:
    """How the file system of ``fd`` counts."""
    folder = _SYS / btrfs.fsid(fd) / "qgroups"
    if not folder.is_dir():
        return Mode.OFF
    try:
        return Mode.SIMPLE if (folder / "mode").read_text().strip() == "squota" else Mode.FULL
    except FileNotFoundError:  # kernels before 6.7 have one mode
        return Mode.FULL


def enable(fd: int, wanted: Mode) -> Mode:
    """Turn counting on, unless it is. ``wanted`` SIMPLE falls back to FULL on a kernel without; the mode there is now.

    Simple quotas set an incompatible-feature flag: older kernels then refuse to mount the file system.
    """
    if (now := mode(fd)) is not Mode.OFF:
        return now
    command = _ENABLE_SIMPLE if wanted is Mode.SIMPLE and simple_known() else _ENABLE
    btrfs.control(fd, btrfs.request(3, 40, 16), _packed("=QQ", command, 0))  # BTRFS_IOC_QUOTA_CTL
    if command == _ENABLE:
        btrfs.control(fd, btrfs.request(0, 46, 0))  # BTRFS_IOC_QUOTA_RESCAN_WAIT
    return mode(fd)


def make(fd: int, group: int) -> None:
    """A new group above level 0. EEXIST when there is one."""
    btrfs.control(fd, btrfs.request(1, 42, 16), _packed("=QQ", 1, group))  # BTRFS_IOC_QGROUP_CREATE


def remove(fd: int, group: int) -> bool:
    """Remove a group; False when it is in use still, or the disk too full to write that down. None is a success."""
    try:
        btrfs.control(fd, btrfs.request(1, 42, 16), _packed("=QQ", 0, group))
    except OSError as error:
        if error.errno in (errno.EBUSY, *FULL):
            return False
        if error.errno != errno.ENOENT:
            raise
    return True


def reap(fd: int, group: int) -> bool:
    """Remove a group with those of its members whose subvolumes are gone; False when one is not, yet.

    With simple quotas a subvolume that is gone is charged on for what snapshots of it still hold: its group stays then.
    """
    for member in members(fd, group):
        if not btrfs.exists(fd, member) and not _charged(fd, member):
            remove(fd, member)
    if group >> 48 == 0 and btrfs.exists(fd, group):
        return False
    return remove(fd, group)


def limit(fd: int, group: int, size: int | None, mode: Mode) -> None:
    """Hold a group to ``size`` bytes; None lifts the limit. With full qgroups these are bytes that no other subvolume
    shares; with simple ones, bytes that the group's subvolumes wrote."""
    value = _NO_LIMIT if size is None else size
    referenced, exclusive = (value, 0) if mode is Mode.SIMPLE else (0, value)
    flag = _MAX_REFERENCED if mode is Mode.SIMPLE else _MAX_EXCLUSIVE
    arguments = _packed("=6Q", group, flag, referenced, exclusive, 0, 0)
    btrfs.control(fd, btrfs.request(2, 43, 48), arguments)  # BTRFS_IOC_QGROUP_LIMIT


def charge(fd: int, group: int, mode: Mode) -> Charge:
    """What a group is charged with now. ENOENT when there is no such group.

    From sysfs, which shows the kernel's counters in memory; the tree on disk is one commit behind.
    """
    folder = _SYS / btrfs.fsid(fd) / "qgroups" / f"{group >> 48}_{group & (1 << 48) - 1}"
    kind, flag = ("referenced", _MAX_REFERENCED) if mode is Mode.SIMPLE else ("exclusive", _MAX_EXCLUSIVE)
    limited = _number(folder / "limit_flags") & flag
    return Charge(
        used=_number(folder / kind) + _number(folder / "rsv_data"),
        limit=_number(folder / f"max_{kind}") if limited else None,
    )


def _charged(fd: int, subvolume: int) -> bool:
    """Whether anything counts for the group of one subvolume; False when there is no such group."""
    try:
        return _number(_SYS / btrfs.fsid(fd) / "qgroups" / f"0_{subvolume}" / "referenced") > 0
    except FileNotFoundError:
        return False


def parents(fd: int, subvolume: int) -> list[int]:
    """The groups that a subvolume is a member of."""
    return [other for other in _relations(fd, subvolume) if other >> 48 > 0]


def members(fd: int, group: int) -> list[int]:
    """The subvolumes in a group, deleted ones that are not yet cleaned away included."""
    return [other for other in _relations(fd, group) if other >> 48 == 0]


def at_level(fd: int, level: int) -> list[int]:
    """All groups of one level."""
    first, last = group_id(level, 0), group_id(level + 1, 0) - 1
    return [item.offset for item in btrfs.search(fd, _QUOTA_TREE, (0, _INFO, first), (0, _INFO, last))]


def _relations(fd: int, group: int) -> list[int]:
    return [item.offset for item in btrfs.search(fd, _QUOTA_TREE, (group, _RELATION, 0), (group, _RELATION, _LAST))]


def _number(file: Path) -> int:
    """Raises FileNotFoundError also for a group that is removed between open and read: the kernel cleans groups of deleted
    subvolumes away by itself, and its files say ENODEV then."""
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(handle, 64))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file)) from error
    finally:
        os.close(handle)


def _packed(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    data = struct.pack(layout, *values)
    return ctypes.create_string_buffer(data, len(data))
