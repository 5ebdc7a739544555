"""When a pre-copy stops copying and freezes: the rule, pure, and the words in which it says which part of it decided."""

from __future__ import annotations

from dataclasses import dataclass

from hostler.core.units import MIB, format_size

_PAGE = 4096
#: A rest that is copied in a freeze that nobody notices, about 10 ms.
ENOUGH = 4 * MIB
#: Rounds at most, and how much smaller each must be than the one before, or going on gains nothing.
MOST, SHRINK = 8, 0.8


@dataclass(frozen=True)
class Round:
    """One copy of what had changed. ``milliseconds`` is what it took."""

    pages: int
    milliseconds: float

    @property
    def size(self) -> int:
        """In bytes."""
        return self.pages * _PAGE


def verdict(rounds: list[Round]) -> str | None:
    """Why to freeze now, in words; None: copy once more. ``rounds``: those done, at least one."""
    last = rounds[-1]
    if len(rounds) > 1 and last.size <= ENOUGH:
        return f"the last round copied {format_size(last.size)}, which is little"
    if len(rounds) > 1 and last.pages > rounds[-2].pages * SHRINK:
        return f"round {len(rounds)} copied {format_size(last.size)}, hardly less than the one before: the container writes as fast as it is copied"
    if len(rounds) >= MOST:
        return f"{MOST} rounds are enough"
    return None
