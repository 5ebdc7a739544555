"""ext4: made in a file, checked, grown while mounted, shrunk while not, held still for a copy.

``ext4(5)``, ``ioctl_fsfreeze``; the superblock is described in https://docs.kernel.org/filesystems/ext4/super.html. Functions that
are ioctls raise :class:`OSError`; those that run programs :class:`HostFailure`, and :class:`NoRoom` on a full disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import HostFailure, NoRoom
from hostler.host.process import run

BLOCK = 4096
#: Bytes of a group.
GROUP = 32768 * BLOCK
_SUPERBLOCK, _MAGIC = 1024, 0xEF53
_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS
_FREEZE, _THAW = 0xC0045877, 0xC0045878
_CAP_SYS_RESOURCE = 24
#: e2fsck's status: bits 1 and 2 say that it mended something.
_MENDED = 3
_PATIENCE = 600.0


@dataclass(frozen=True)
class Size:
    """Of a file system, in bytes: all of it, what is in use as of its last clean moment, and what of each group is its own;
    and inodes in use."""

    total: int
    used: int
    group_own: int
    inodes: int


def size_of(file: Path) -> Size:
    """From the superblock. Raises :class:`HostFailure` for what is not such a file system."""
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = os.pread(handle, 1024, _SUPERBLOCK)
    finally:
        os.close(handle)
    if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC or struct.unpack_from("<I", block, 0x18)[0] != 2:
        raise HostFailure(f"{file} holds no ext4 with blocks of 4 KiB", hint="restore the volume from a snapshot", code="bad_file_system")
    at = (0x00, 0x04, 0x0C, 0x10, 0x28, 0x150, 0x158)
    nodes, low, free, free_nodes, of_group, high, free_high = (struct.unpack_from("<I", block, place)[0] for place in at)
    total = low | high << 32
    return Size(total * BLOCK, (total - (free | free_high << 32)) * BLOCK, of_group * 256 + 16 * BLOCK, nodes - free_nodes)


def make(file: Path, files: Path, size: int, entries: int) -> None:
    """A file system of ``size`` bytes with what is in the folder ``files``, ``entries`` of them, in a new sparse file."""
    with file.open("xb") as new:
        new.truncate(size)
    ratio = min(16384, max(1024, size // (entries + 1) // 2))
    words: list[str | Path] = ["mkfs.ext4", "-q", "-F", "-b", f"{BLOCK}", "-m", "0", "-i", f"{ratio}", "-I", "256", "-J", "size=4"]
    words += ["-O", "meta_bg,^resize_inode"]  # it can grow to any size, with nothing reserved for that
    _run([*words, "-E", "lazy_itable_init=1,nodiscard", "-d", files, file])


def check(file: Path) -> list[str]:
    """Mend what a crash may leave in a file system that is not mounted; what is wrong with it still, in words."""
    done = run(["e2fsck", "-f", "-p", file], timeout=_PATIENCE, check=False)
    if done.returncode & ~_MENDED == 0:
        return []
    return [f"e2fsck cannot mend it: {' '.join(done.text.split())[-300:]} {done.error_text}".strip()]


def resize(file: Path, size: int | None, *, clean: bool = False) -> None:
    """Make one that is not mounted, and its file, as large as ``size`` bytes, or as small as can be (None). It is checked
    before, unless it is known to be ``clean``."""
    problems = [] if clean else check(file)
    if problems:
        raise HostFailure(problems[0], hint="restore the volume from a snapshot", code="bad_file_system")
    if size is not None and size > file.stat().st_size:
        os.truncate(file, size)
    _run(["resize2fs", "-f", "-M", file] if size is None else ["resize2fs", "-f", file, f"{size // BLOCK}"])
    os.truncate(file, size_of(file).total)


def _run(words: list[str | Path]) -> None:
    """Run a program that writes to a file system. Raises :class:`NoRoom` when the disk below it is full, as it says itself."""
    try:
        run(words, timeout=_PATIENCE)
    except HostFailure as error:
        if os.strerror(errno.ENOSPC) in error.message:
            reason = f"the disk is full: {error.message}"
            raise NoRoom(reason, hint="free space in the pool, or use another server", code="disk_full") from error
        raise


def can_grow_mounted() -> bool:
    """Whether :func:`grow` is allowed: the kernel wants CAP_SYS_RESOURCE for it, which root lacks in some containers."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def grow(mounted: int, size: int) -> None:
    """Let a mounted one, that ``mounted`` is a descriptor in, use ``size`` bytes of its device. Live. EPERM without CAP_SYS_RESOURCE."""
    fcntl.ioctl(mounted, _RESIZE, struct.pack("=Q", size // BLOCK))


@contextmanager
def frozen(mounted: int) -> Iterator[None]:
    """Nothing changes on the file system in the block, and what is on its device is whole: writers wait."""
    fcntl.ioctl(mounted, _FREEZE, 0)
    try:
        yield
    finally:
        thaw(mounted)


def thaw(mounted: int) -> None:
    """Let writers go on; one that is not frozen is fine."""
    try:
        fcntl.ioctl(mounted, _THAW, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
