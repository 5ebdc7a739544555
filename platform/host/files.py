"""What Python has no call for on files: sharing blocks (FICLONE), exchanging two names, copying data without holes.

``ioctl_ficlonerange(2)``, ``renameat2(2)``, ``lseek(2)``. Functions raise :class:`OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_FICLONE: Final = 0x40049409
_FICLONERANGE: Final = 0x4020940D
_EXCHANGE: Final = 2
_PUNCH_KEEPING_SIZE: Final = 3
#: What a file system says that cannot share blocks between these two files.
_NOT_SHARED = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL})


def share_range(source: int, target: int, start: int, length: int, at: int) -> None:
    """Make ``length`` bytes of ``target`` at ``at`` the same blocks as those of ``source`` from ``start``; whole blocks
    only, but at the end of ``source``."""
    fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, start, length, at))


def share(source: int, target: int) -> bool:
    """Make all of ``target`` the same blocks as ``source``; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_SHARED:
            return False
        raise
    return True


def punch(handle: int, start: int, length: int) -> None:
    """Make a hole in a file: zeros that take no room. EOPNOTSUPP where there are no holes."""
    if _libc.fallocate(handle, _PUNCH_KEEPING_SIZE, ctypes.c_long(start), ctypes.c_long(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def exchange(first: str, second: str, folder: int, other: int | None = None) -> None:
    """Exchange two names at one instant: ``first`` in ``folder`` and ``second`` in ``other`` (default: the same)."""
    where = folder if other is None else other
    if _libc.renameat2(folder, os.fsencode(first), where, os.fsencode(second), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), first, None, second)


def extents(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of the first ``size`` bytes that is not a hole. ``lseek`` moves the file's position."""
    at = 0
    while at < size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        if start >= size:
            return
        at = min(os.lseek(handle, start, os.SEEK_HOLE), size)
        yield start, at


def copy(source: int, target: int) -> None:
    """Make the empty file ``target`` a copy of ``source``: shared blocks where possible, else its data without the holes."""
    size = os.fstat(source).st_size
    if share(source, target):
        return
    os.ftruncate(target, size)
    for start, end in extents(source, size):
        while start < end:
            start += _copied(source, target, start, end - start)


def _copied(source: int, target: int, start: int, length: int) -> int:
    done = os.copy_file_range(source, target, min(length, 1 << 30), start, start)
    if done == 0:
        raise OSError(errno.EIO, "the file ended while it was copied")
    return done
