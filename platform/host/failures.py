"""System calls' errors as the errors that people see."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hostler.core.errors import HostFailure, NoRoom

#: What a full file system and a full quota say.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: BaseException) -> bool:
    """Whether a full disk or quota is at the bottom of ``error``: itself, or what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if isinstance(seen, HostFailure) and "No space left on device" in seen.message:
            return True
        seen = seen.__cause__
    return False


@contextmanager
def explained(doing: str, *, full: str = "free space there, or use another server") -> Iterator[None]:
    """Turn an :class:`OSError` in the block into :class:`NoRoom` (a full disk or quota) or :class:`HostFailure`.

    ``doing`` completes "cannot …"; ``full`` is the hint when there is no room.
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot {doing}: {error.strerror or error}"
        if error.errno in FULL:
            raise NoRoom(reason, hint=full, code="disk_full") from error
        raise HostFailure(reason, hint="run `hostler doctor` on this server: it lists what is missing") from error
