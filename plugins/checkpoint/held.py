"""The conversation with hostler-hook, in files: what CRIU asks at a stage, and the answer.

    work/
      criu.pid            CRIU's own pid, written by hostler-launch
      <stage>             CRIU waits there; holds the pid of the container's init
      <stage>.go|.no      the answer
      restore.log         CRIU's words

Whoever asked for a restore may die: CRIU waits on, for :data:`PATIENCE` at most, and the next worker finds the question.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from hostler.host.pidfd import Identity

#: Seconds that CRIU waits for an answer before it ends what it restored. Settling a hand-over by way of the control side
#: takes a restart of a worker and two messages.
PATIENCE = 120
_GRAIN = 0.0002


@dataclass(frozen=True)
class Questions:
    """Folder ``work`` of one restore."""

    work: Path

    def asked(self, stage: str) -> int | None:
        """The pid that came with the question of a stage; None when it was not asked."""
        try:
            return int((self.work / stage).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def asked_at_all(self, stage: str) -> bool:
        """Whether the question was asked; of stages at which CRIU knows no pid."""
        return (self.work / stage).exists()

    def answer(self, stage: str, go: bool) -> None:
        """Let CRIU go on, or give up. The first answer counts."""
        if self.answered(stage) is None:
            (self.work / f"{stage}.{'go' if go else 'no'}").touch()

    def answered(self, stage: str) -> bool | None:
        """What was answered; None when nothing was."""
        if (self.work / f"{stage}.no").exists():
            return False
        return True if (self.work / f"{stage}.go").exists() else None

    def criu(self) -> Identity | None:
        """The CRIU at work; None when it has ended, or was never started. A pid that is somebody else's now is not taken for it."""
        try:
            found = Identity.of(int((self.work / "criu.pid").read_text()))
            words = Path(f"/proc/{found.pid}/cmdline").read_bytes().split(b"\0") if found else []
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return found if os.fsencode(self.work) in words or (found and not words) else None

    def until_asked(self, stage: str, alive: Identity | None, deadline: float) -> int | None:
        """Wait for a question; None when CRIU ended instead, or at the deadline (of the monotonic clock)."""
        while (pid := self.asked(stage)) is None:
            if time.monotonic() > deadline or (alive is not None and not alive.alive()):
                return self.asked(stage)
            time.sleep(_GRAIN)
        return pid
