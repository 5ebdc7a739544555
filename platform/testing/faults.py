"""Faults and delays at named points of the fake drivers, told in a file: they hold in every thread and process of a server."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from hostler.core import errors

#: An expected error by its class's name, an ``OSError`` by the name of its number, a defect, or the process's sudden end.
Action = Literal["HostFailure", "NoRoom", "Unavailable", "ENOSPC", "EIO", "bug", "kill", "none"]


class Fault(BaseModel):
    """What happens when ``point`` (with ``*`` as in file names) is passed for the ``nth`` time; 0: every time."""

    point: str
    action: Action
    nth: int = 1
    delay: float = 0
    """Seconds to wait before the action."""
    passed: int = 0


class Faults:
    """The faults of one server. Without any, passing a point costs one look for a file."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "faults.json"

    def inject(self, point: str, action: Action, *, nth: int = 1, delay: float = 0) -> None:
        """Add a fault. Points are ``group.verb`` at a verb's begin and ``group.verb:done`` at its end."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as faults:
            faults.append(Fault(point=point, action=action, nth=nth, delay=delay))

    def clear(self) -> None:
        """Forget all faults."""
        self._file.unlink(missing_ok=True)

    def hits(self) -> int:
        """How often a point of any fault was passed."""
        if not self._file.exists():
            return 0
        with self._open() as faults:
            return sum(fault.passed for fault in faults)

    def passing(self, point: str) -> None:
        """Called by the fakes: wait, raise or die where a fault says so."""
        if not self._file.exists():
            return
        due = []
        with self._open() as faults:
            for fault in faults:
                if fnmatchcase(point, fault.point):
                    fault.passed += 1
                    if fault.nth in (0, fault.passed):
                        due.append(fault)
        for fault in due:
            time.sleep(fault.delay)
            _act(fault.action, point)

    @contextmanager
    def _open(self) -> Iterator[list[Fault]]:
        with self._file.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            rows: list[Any] = json.loads(text) if text else []
            faults = [Fault.model_validate(row) for row in rows]
            yield faults
            file.seek(0)
            file.truncate()
            file.write(json.dumps([fault.model_dump() for fault in faults]))


def _act(action: Action, point: str) -> None:
    match action:
        case "none":
            return
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "bug":
            raise RuntimeError(f"injected defect at {point}")
        case "ENOSPC" | "EIO":
            number = getattr(errno, action)
            raise OSError(number, os.strerror(number), point)
        case _:
            kind: type[errors.HostlerError] = getattr(errors, action)
            raise kind(f"injected fault at {point}", hint="the test asked for it")
