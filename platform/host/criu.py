"""Which CRIU a kernel needs. Pure.

The driver's options need 4.0. From Linux 6.16 on, which answers SO_PASSCRED for unix sockets alone, all before 4.2 fail on every TCP socket.
ops/lib/criu.sh has the same rule for the shell.
"""

from __future__ import annotations

import re

_OLDEST, _NEW_KERNEL, _FOR_NEW_KERNEL = (4, 0), (6, 16), (4, 2)


def numbers(version: str) -> tuple[int, ...]:
    """``6.18.0-rc1`` → (6, 18, 0); empty for what is none."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def oldest(kernel: str) -> str:
    """The oldest version that works on a kernel, both as they name themselves."""
    return ".".join(map(str, _FOR_NEW_KERNEL if numbers(kernel) >= _NEW_KERNEL else _OLDEST))


def too_old(version: str, kernel: str) -> bool:
    """Whether CRIU ``version`` is, for a kernel; what is no version is."""
    return numbers(version) < numbers(oldest(kernel))
