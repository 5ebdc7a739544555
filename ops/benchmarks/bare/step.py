"""One verb, a driver's way and the bare tool's."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import HostFailure

Act = Callable[[], object]


@dataclass(frozen=True)
class Step:
    """What is timed. ``bare`` None: no tool does it."""

    verb: str
    ours: Act
    bare: Act | None
    note: str = ""


class Subject(ABC):
    """A driver in an environment of its own, and the same work beside it."""

    @abstractmethod
    def steps(self, number: int) -> list[Step]:
        """The verbs of one round, in order; afterwards both sides are as before."""

    def close(self) -> None:
        """Remove what the bare tools left."""


def tool(*words: str | Path, feed: Path | None = None) -> None:
    """Run a program as cheaply as can be: its input from a file, its output nowhere. Raises :class:`HostFailure` with what it said when it fails."""
    with tempfile.TemporaryFile() as said:
        actions = [(os.POSIX_SPAWN_OPEN, 0, str(feed or os.devnull), os.O_RDONLY, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
        command = [str(word) for word in words]
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0:
            said.seek(0)
            raise HostFailure(f"{' '.join(command)} ended with {status}: {said.read().decode(errors='replace').strip()}")
