"""Locks among threads and processes: ``flock(2)`` on a file of its own, freed by the kernel when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostler.core.errors import Timeout

#: Unpacking a large image takes minutes; nothing takes longer.
PATIENCE = 900.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05


@contextmanager
def locked(folder: Path, name: str, *, shared: bool = False, patience: float = PATIENCE) -> Iterator[None]:
    """Hold lock ``name`` of ``folder``, alone or ``shared``. Raises :class:`Timeout` after ``patience`` seconds.

    Not reentrant. The file goes when a sole holder is done, so that locks of deleted things do not pile up.
    """
    path = folder / name
    handle = _acquire(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, patience)
    try:
        yield
    finally:
        if not shared:
            path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def if_free(folder: Path, name: str) -> Iterator[bool]:
    """Hold a lock alone if nobody has it now; tells whether it is held."""
    try:
        handle = _acquire(folder / name, fcntl.LOCK_EX, 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        (folder / name).unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, kind: int, patience: float) -> int:
    deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _taken(handle, kind) and _is_at(path, handle):
            return handle
        os.close(handle)
        if time.monotonic() > deadline:
            raise Timeout(f"{path.name} stayed locked for {patience:g} s", hint="another operation on it is still running; try again")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _taken(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, handle: int) -> bool:
    """Whether the locked file is still the one that others will open: its last holder may have removed it."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))
