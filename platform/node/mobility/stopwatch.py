"""What each phase of something took, for its report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Milliseconds by phase, in the order in which the phases ended; one that is entered twice is the sum. Phases may overlap."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block is a phase, whatever comes of it."""
        began = time.monotonic()
        try:
            yield
        finally:
            took = (time.monotonic() - began) * 1000
            self.phases[name] = round(self.phases.get(name, 0.0) + took, 1)

    @property
    def total(self) -> float:
        """Milliseconds since it was made."""
        return round((time.monotonic() - self._began) * 1000, 1)
