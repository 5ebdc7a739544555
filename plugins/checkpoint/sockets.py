"""Which sockets CRIU 4.2 can take along, and what an open one is. https://criu.org/Sockets

What kind a socket is, /proc does not tell of one that is neither bound nor connected; so a copy of the descriptor is taken
(``pidfd_getfd(2)``) and asked. That changes nothing for its owner.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket

#: Stream and datagram protocols: IP (a raw socket's own business), ICMP and ICMPv6 (ping), TCP, UDP, UDP-Lite.
_PROTOCOLS = frozenset({0, 1, 6, 17, 58, 136})
_INET = frozenset({socket.AF_INET, socket.AF_INET6})
_KNOWN = frozenset({socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET})
_SO_PROTOCOL, _SO_DOMAIN = 38, 39
_MPTCP, _SCTP, _DCCP = 262, 132, 33
#: include/uapi/asm-generic/unistd.h; Linux ≥ 5.6.
_PIDFD_GETFD = 438
_NAMES = {_MPTCP: "MPTCP", _SCTP: "SCTP", _DCCP: "DCCP"}
#: include/linux/socket.h; not every Python knows all of them.
_FAMILIES = {15: "AF_KEY", 29: "AF_CAN", 30: "AF_TIPC", 31: "AF_BLUETOOTH", 38: "AF_ALG (the kernel's ciphers)", 40: "AF_VSOCK (virtual machines)", 41: "AF_KCM", 42: "AF_QIPCRTR",
             43: "AF_SMC", 44: "AF_XDP"}
_REMEDIES = {_MPTCP: "have the program listen with plain TCP (Go: GODEBUG=multipathtcp=0), or end it"}

_libc = ctypes.CDLL(None, use_errno=True)


def against(family: int, kind: int, protocol: int) -> tuple[str, str] | None:
    """What such a socket is called, if it cannot be taken along, and a remedy. Pure."""
    if family in _KNOWN or (family in _INET and (kind == socket.SOCK_RAW or protocol in _PROTOCOLS)):
        return None
    name = _NAMES.get(protocol, f"protocol {protocol}") if family in _INET else _FAMILIES.get(family, f"family {family}")
    return f"a socket of {name}", _REMEDIES.get(protocol, "end the program, or have it use TCP, UDP or unix sockets")


def look(process: int, number: int) -> tuple[int, int, int] | None:
    """Family, type and protocol of descriptor ``number`` behind the pidfd ``process``; None when it is closed meanwhile. Raises :class:`OSError`."""
    handle = _libc.syscall(_PIDFD_GETFD, process, number, 0)
    if handle < 0:
        error = ctypes.get_errno()
        if error in (errno.EBADF, errno.ESRCH):
            return None
        raise OSError(error, os.strerror(error), f"descriptor {number}")
    try:
        family, kind, protocol = (_option(handle, option) for option in (_SO_DOMAIN, socket.SO_TYPE, _SO_PROTOCOL))
        return family, kind, protocol
    except OSError as error:
        if error.errno == errno.ENOTSOCK:  # the number is another file's meanwhile
            return None
        raise
    finally:
        os.close(handle)


def _option(handle: int, name: int) -> int:
    """Python's own sockets would look for an address first, which not all families have."""
    value, size = ctypes.c_int(), ctypes.c_uint(ctypes.sizeof(ctypes.c_int))
    if _libc.getsockopt(handle, socket.SOL_SOCKET, name, ctypes.byref(value), ctypes.byref(size)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "getsockopt")
    return value.value
