"""The door to the kernel's TUN/TAP driver: network devices whose packets a file descriptor holds (``Documentation/networking/tuntap.rst``).

What is sent to such a device waits in the kernel until it is read, up to the device's queue (``txqlen``) and no farther; what is written
arrives from the device. A device lives as long as its descriptor: a process that dies leaves none.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import Conflict, HostFailure

_DEVICE = Path("/dev/net/tun")
_SET_DEVICE, _ATTACH_FILTER = 0x400454CA, 0x401054D5  # linux/if_tun.h: TUNSETIFF, TUNATTACHFILTER
_TUN, _TAP, _BARE = 0x0001, 0x0002, 0x1000  # IFF_TUN, IFF_TAP, IFF_NO_PI
_LONGEST = 1 << 16
#: No room, a packet that is none, a device that is down or deleted.
_NOT_TAKEN = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL, errno.EIO, errno.EBADFD})
_HINT = "load the kernel's module tun; the worker must be root, with CAP_NET_ADMIN"


@dataclass(frozen=True)
class Instruction:
    """Of classic BPF (``linux/filter.h``)."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    @property
    def packed(self) -> bytes:
        """As the kernel takes it."""
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.value)


class Tap:
    """A device called ``name``, down, in the calling thread's network namespace. Any thread may use it.

    ``ethernet``: it carries frames; else IP packets. Raises :class:`Conflict` (``busy``) where somebody else has it open,
    and :class:`HostFailure`.
    """

    def __init__(self, name: str, *, ethernet: bool) -> None:
        self.name = name
        self._handle = -1
        try:
            self._handle = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            kind = (_TAP if ethernet else _TUN) | _BARE
            fcntl.ioctl(self._handle, _SET_DEVICE, struct.pack("16sH22x", name.encode(), kind))
        except OSError as error:
            self.close()
            if error.errno == errno.EBUSY:
                raise Conflict(f"device {name} is in use", hint="another process, or another part of this one, has it open", code="busy") from error
            raise HostFailure(f"cannot make device {name}: {error.strerror}", hint=_HINT, code="no_tap") from error

    def admit(self, program: Iterable[Instruction]) -> None:
        """Keep only what a classic BPF program accepts. Only where frames are carried."""
        packed = b"".join(instruction.packed for instruction in program)
        code = ctypes.create_string_buffer(packed, len(packed))
        try:
            fcntl.ioctl(self._handle, _ATTACH_FILTER, struct.pack("HxxxxxxP", len(packed) // 8, ctypes.addressof(code)))
        except OSError as error:
            raise HostFailure(f"cannot set the filter of device {self.name}: {error.strerror}", hint=_HINT) from error

    def waiting(self, limit: int) -> Iterator[bytes]:
        """What waits, oldest first, until nothing does, and at most ``limit`` of it."""
        for _ in range(limit):
            try:
                yield os.read(self._handle, _LONGEST)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EBADFD):  # EBADFD: somebody deleted the device
                    return
                raise HostFailure(f"cannot read from device {self.name}: {error.strerror}", hint="is it up? `ip link` tells") from error

    def put(self, packet: bytes) -> None:
        """Let a packet arrive from the device. What the kernel does not take is lost, as on any wire."""
        try:
            os.write(self._handle, packet)
        except OSError as error:
            if error.errno not in _NOT_TAKEN:
                raise HostFailure(f"cannot write to device {self.name}: {error.strerror}", hint="is it up? `ip link` tells") from error

    def close(self) -> None:
        """Remove the device and all that waits. Takes 20 ms, in which the kernel waits for others to be done with it. Idempotent."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
