"""Opening paths that a tenant's files may have booby-trapped: ``openat2(2)``, which no library wraps.

The kernel resolves the path, so there is no time between a check and a use.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from hostler.core.errors import Unsupported

#: The same number on all architectures but alpha (``include/uapi/asm-generic/unistd.h``); Linux ≥ 5.6.
_OPENAT2: Final = 437
_NO_XDEV: Final = 0x01
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_IN_ROOT: Final = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as a process would whose root is the folder of descriptor ``root``.

    Absolute links and ``..`` stay inside. Mount points are not crossed. Raises :class:`OSError` as ``open(2)``.
    """
    return _open(root, path, flags, mode, _IN_ROOT | _NO_XDEV | _NO_MAGICLINKS)


def open_beneath(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` below ``root``; any symbolic link in it, the last component included, is ELOOP, and ``..`` out
    of the root is EXDEV. Raises :class:`OSError`."""
    return _open(root, path, flags, mode, _BENEATH | _NO_SYMLINKS | _NO_XDEV)


def _open(root: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a NUL byte in a path", path)
    how = _How(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = int(_libc.syscall(_OPENAT2, root, path or b".", ctypes.byref(how), ctypes.sizeof(how)))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            raise Unsupported(
                "this kernel has no openat2, without which archives cannot be unpacked safely",
                hint="run Linux 5.6 or newer on this server",
            )
        # EAGAIN: a rename or mount elsewhere raced with resolving; openat2(2) says to try again.
        if number not in (errno.EAGAIN, errno.EINTR):
            raise OSError(number, os.strerror(number), path)
