"""A byte rate that bulk data keeps to, so that emptying a server leaves room for its customers."""

from __future__ import annotations

import time

from hostler.core.errors import Invalid
from hostler.node.wire.frames import CHUNK

_LEAST = 16 << 10
#: Unused time is not saved up beyond this, in seconds.
_BURST = 0.1


class Pace:
    """Waits so long after each piece that on average ``rate`` bytes a second pass; None: as many as there are."""

    def __init__(self, rate: float | None) -> None:
        if rate is not None and rate <= 0:
            raise Invalid(f"a rate of {rate:g} bytes a second moves nothing", hint="give a positive number, or none for no limit")
        self._rate = rate
        self._free_at = time.monotonic()

    @property
    def piece(self) -> int:
        """Bytes to send at a time: a tenth of a second's worth, within a data frame's size."""
        return CHUNK if self._rate is None else max(_LEAST, min(CHUNK, int(self._rate / 10)))

    def spend(self, count: int) -> None:
        """``count`` bytes were sent: wait until more may be."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - _BURST) + count / self._rate
        if self._free_at > now:
            time.sleep(self._free_at - now)
