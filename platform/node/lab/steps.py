"""What is being done and how long it took, a line each, as the ops scripts print it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BACK = "\r\x1b[K"


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say ``what`` is done, with its time, when the block ends; on a terminal also while it is at work."""
    terminal = sys.stdout.isatty()
    back = _BACK if terminal else ""
    began = time.monotonic()
    if terminal:
        print(f"  … {what}", end="", flush=True)
    try:
        yield
    except BaseException:
        print(f"{back}  {what}: failed after {_ms(began)} ms", flush=True)
        raise
    print(f"{back}  {what:<58} {_ms(began):6d} ms", flush=True)


def _ms(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
