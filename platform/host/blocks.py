"""Block devices: which disks the files of a folder lie on. ``/sys/dev/block``, ``loop(4)``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hostler.host import mountinfo

SYS = Path("/sys/dev/block")


def disk_of(number: tuple[int, int]) -> tuple[int, int]:
    """The whole disk that a partition is on, which is what block I/O limits are set on; a disk is its own."""
    here = SYS / f"{number[0]}:{number[1]}"
    if not (here / "partition").exists():
        return number
    major, minor = (here.resolve().parent / "dev").read_text().strip().split(":")
    return int(major), int(minor)


def under(folder: Path) -> list[tuple[int, int]]:
    """Major and minor numbers of the disks that hold ``folder`` and what is mounted below it, sorted.

    A file system that is on no block device (tmpfs, overlay) adds none.
    """
    found: set[tuple[int, int]] = set()
    mounts = mountinfo.read()
    holders = [mount for mount in mounts if folder == mount.point or mount.point in folder.parents]
    below = [mount for mount in mounts if folder in mount.point.parents]
    for mount in [*holders[-1:], *below]:
        number = _number(mount)
        if number is not None:
            found.add(disk_of(number))
    return sorted(found)


def _number(mount: mountinfo.Mount) -> tuple[int, int] | None:
    if mount.device[0] != 0:
        return mount.device
    if not mount.source.startswith("/dev/"):  # btrfs shows an anonymous device and names the real one
        return None
    try:
        found = os.stat(mount.source)
    except FileNotFoundError:
        return None
    return (os.major(found.st_rdev), os.minor(found.st_rdev)) if stat.S_ISBLK(found.st_mode) else None


def scheduler(number: tuple[int, int]) -> str:
    """The I/O scheduler in use, such as ``bfq`` or ``none``."""
    text = (SYS / f"{number[0]}:{number[1]}" / "queue" / "scheduler").read_text()
    return text.partition("[")[2].partition("]")[0] or text.strip()
