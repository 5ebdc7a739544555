"""One ``ops/up`` or ``ops/down`` at a time on a home folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostler.core.errors import Conflict


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the home folder's lock. Raises :class:`Conflict` when another holds it. It ends with its holder, however that ends."""
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another ops/up or ops/down is at work in {home}", hint="wait for it to end") from None
        yield
    finally:
        os.close(descriptor)
