"""Writing as a tenant does: the host's root is exempt from disk quotas (CAP_SYS_RESOURCE), a container's root is not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
#: ``capset(2)``: version 3 of the header, of the calling thread; then effective, permitted and inheritable bits, twice 32.
_HEADER = struct.pack("=Ii", 0x20080522, 0)
_SETS = struct.Struct("=6I")
_CAP_SYS_RESOURCE = 24


@contextlib.contextmanager
def without_resource_override() -> Iterator[None]:
    """The calling thread is held to quotas for the block's time. Whoever lacks the capability is already."""
    before = _capget()
    if not before[0] >> _CAP_SYS_RESOURCE & 1:
        yield
        return
    _capset((before[0] & ~(1 << _CAP_SYS_RESOURCE), *before[1:]))
    try:
        yield
    finally:
        _capset(before)


def _capget() -> tuple[int, ...]:
    data = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(_HEADER, data))
    return _SETS.unpack(data.raw)


def _capset(sets: tuple[int, ...]) -> None:
    _check(_libc.capset(_HEADER, _SETS.pack(*sets)))


def _check(answer: int) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
