"""How long a container would stand still, and how much would travel. Pure; a forecast from medians that were measured, not a promise.

Measured between two servers on one machine: stop and copy froze 13 MB for 85 ms and 1.09 GB for 2.7 s, post-copy 80 and 169 ms. A slow network
between servers adds the memory's time on it to stop and copy.
"""

from __future__ import annotations

from hostler.core.units import MIB

_STILL_MS = 90.0
_MS_PER_MIB = {"stop_copy": 2.4, "post_copy": 0.1, "pre_copy": 0.1, "suspend": 1.2}

#: Of moves that are none of memory.
WHY = {
    "restart": "its memory cannot move, so it would be stopped, copied and started",
    "files": "it does not run: only its files move",
}


def frozen_ms(method: str, memory: int) -> float | None:
    """Milliseconds for ``memory`` bytes; None where nothing that runs is frozen."""
    per_mib = _MS_PER_MIB.get(method)
    return None if per_mib is None else round(_STILL_MS + per_mib * memory / MIB, 1)
