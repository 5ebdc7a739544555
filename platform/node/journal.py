"""A server's journal: what it was told, what it began, what came of it.

Three promises hang on it. A container that was handed over to another server never runs here again before it is handed back. A batch with a lower fencing number than the server has seen for the target is refused, and a step
that was finished under one operation is answered from here when it is asked for again. It is
SQLite in WAL mode in the node's own folder, and survives any kill of the worker.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from hostler.contracts.driver import Host
from hostler.core.errors import Stale
from hostler.core.messages import Direction, StepOutcome

_SCHEMA = """
CREATE TABLE IF NOT EXISTS fences (target TEXT PRIMARY KEY, fence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    operation TEXT NOT NULL, position INTEGER NOT NULL, direction TEXT NOT NULL,
    fence INTEGER NOT NULL, instance TEXT NOT NULL, began REAL NOT NULL, outcome TEXT,
    PRIMARY KEY (operation, position, direction)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS handovers (
    container TEXT PRIMARY KEY, operation TEXT NOT NULL, peer TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
"""
#: Seconds that finished steps are remembered: far longer than any message can be under way.
MEMORY = 86_400


class Journal:
    """One connection, one lock: entries are small and rare beside the work they describe."""

    def __init__(self, path: Path, instance: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.instance = instance
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        self._db.execute("DELETE FROM steps WHERE began < ? AND outcome IS NOT NULL", (time.time() - MEMORY,))

    def admit(self, target: str, fence: int) -> None:
        """Remember ``fence`` as the highest seen for ``target``. Raises :class:`Stale` when a higher one was seen."""
        with self._lock:
            row = self._db.execute("SELECT fence FROM fences WHERE target = ?", (target,)).fetchone()
            if row is not None and row[0] > fence:
                raise Stale(f"this server has seen claim {row[0]} of {target}; {fence} is older", hint="someone else has taken over")
            self._db.execute(
                "INSERT INTO fences VALUES (?, ?) ON CONFLICT (target) DO UPDATE SET fence = excluded.fence", (target, fence)
            )

    def begin(self, operation: str, index: int, direction: Direction, fence: int) -> tuple[StepOutcome | None, str | None]:
        """Note that a step begins. Its outcome, if it has been finished well before, and the worker instance that had begun it, if any."""
        with self._lock:
            row = self._db.execute(
                "SELECT outcome, instance FROM steps WHERE operation = ? AND position = ? AND direction = ?", (operation, index, direction)
            ).fetchone()
            if row is not None and row[0] is not None:
                outcome = StepOutcome.model_validate_json(row[0])
                if outcome.error is None:
                    return outcome, row[1]
            self._db.execute(
                "INSERT OR REPLACE INTO steps (operation, position, direction, fence, instance, began) VALUES (?, ?, ?, ?, ?, ?)",
                (operation, index, direction, fence, self.instance, time.time()),
            )
            return None, row[1] if row is not None and row[0] is None else None

    def finish(self, operation: str, direction: Direction, outcome: StepOutcome) -> None:
        """Note how a step ended."""
        with self._lock:
            self._db.execute(
                "UPDATE steps SET outcome = ? WHERE operation = ? AND position = ? AND direction = ?",
                (outcome.model_dump_json(), operation, outcome.index, direction),
            )

    def hand_over(self, container: str, operation: str, peer: str) -> None:
        """The word after which a container belongs to server ``peer`` (its fingerprint): what is here of it never runs again."""
        with self._lock:
            self._db.execute("PRAGMA synchronous=FULL")  # it must hold after a power failure too: the other server has the container then
            try:
                self._db.execute("INSERT OR REPLACE INTO handovers VALUES (?, ?, ?, ?)", (container, operation, peer, time.time()))
            finally:
                self._db.execute("PRAGMA synchronous=NORMAL")

    def handed_over(self, container: str) -> str | None:
        """The operation in which a container was handed over; None when it was not, or has come back since."""
        with self._lock:
            return handed_over(self._db, container)

    def take_back(self, container: str) -> None:
        """The container is here again by right: it was handed over to this server, or is made anew."""
        with self._lock:
            self._db.execute("DELETE FROM handovers WHERE container = ?", (container,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def journal_file(host: Host) -> Path:
    """Where a server's journal is."""
    return host.state_dir / "journal.sqlite3"


def handed_over(db: sqlite3.Connection, container: str) -> str | None:
    """As :meth:`Journal.handed_over`, on a connection of the caller's own: the watch reads here while no worker is alive."""
    row = db.execute("SELECT operation FROM handovers WHERE container = ?", (container,)).fetchone()
    return None if row is None else str(row[0])
