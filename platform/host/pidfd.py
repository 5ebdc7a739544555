"""The door to processes that we did not start: by pid *and* start time, through pidfds, so that a reused pid is never hit.

``pidfd_open(2)`` since Linux 5.3.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A process for all time. ``started_at`` is in clock ticks since boot (field 22 of ``proc(5)`` stat)."""

    pid: int
    started_at: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Who has this pid now; None when nobody has, or only a zombie."""
        found = _stat(pid)
        return None if found is None else cls(pid, found)

    def alive(self) -> bool:
        """Whether this very process is there and no zombie."""
        return _stat(self.pid) == self.started_at

    @contextlib.contextmanager
    def opened(self) -> Iterator[int | None]:
        """A pidfd of this very process for the block; None when it has ended."""
        handle = open_pidfd(self)
        try:
            yield handle
        finally:
            if handle is not None:
                os.close(handle)

    def send(self, number: int) -> bool:
        """Signal this very process; false when it has ended."""
        with self.opened() as handle:
            if handle is None:
                return False
            try:
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                return False
            return True

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the process to end; whether it has."""
        with self.opened() as handle:
            return handle is None or ended(handle, timeout)


def open_pidfd(process: Identity) -> int | None:
    """A pidfd to be closed by the caller; None when that process has ended."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.alive():
        return handle
    os.close(handle)
    return None


def open_to_the_end(process: Identity) -> int | None:
    """As :func:`open_pidfd`, but None only when the last of its threads has ended too: of a process that was killed, which is a zombie
    already, another thread may yet be about to end a write. The descriptor becomes readable when that is over."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    found = _fields(process.pid)
    if found is not None and int(found[19]) == process.started_at and not ended(handle, 0):
        return handle
    os.close(handle)
    return None


def ended(handle: int, timeout: float) -> bool:
    """Wait up to ``timeout`` seconds for a pidfd's process to end; whether it has."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0, timeout * 1000)))


def _stat(pid: int) -> int | None:
    fields = _fields(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def _fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()  # the name before may hold anything


# PIDFD_GET_INFO, include/uapi/linux/pidfd.h: the first 64 bytes of struct pidfd_info, exit_code last. Python wraps none of it.
_INFO_BYTES = 64
_GET_INFO = (3 << 30) | (_INFO_BYTES << 16) | (0xFF << 8) | 11
_INFO_EXIT = 1 << 3


def exit_status(handle: int, timeout: float = 0.02) -> int | None:
    """How the process of a pidfd ended, as ``wait(2)`` tells it; None where the kernel (before 6.15) does not say.

    The kernel knows it once the parent has reaped the process, for which up to ``timeout`` seconds are given.
    """
    deadline = time.monotonic() + timeout
    while True:
        info = bytearray(struct.pack("Q", _INFO_EXIT).ljust(_INFO_BYTES, b"\0"))
        try:
            fcntl.ioctl(handle, _GET_INFO, info)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return None
            if error.errno != errno.ESRCH:
                raise
        else:
            if struct.unpack_from("Q", info)[0] & _INFO_EXIT:
                return int(struct.unpack_from("i", info, _INFO_BYTES - 4)[0])
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)
