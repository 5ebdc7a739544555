"""The store's engine and transactions. SQLite (WAL) and PostgreSQL behave alike through here.

Writing transactions are serialised where it matters: SQLite takes its write lock at the beginning
(``BEGIN IMMEDIATE``), so that a read-then-write never fails half way; PostgreSQL locks the rows that
queries name with ``FOR UPDATE``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from hostler.core.errors import Unavailable

#: How often a transaction that lost a race is tried again.
ATTEMPTS = 8
#: serialization_failure and deadlock_detected (PostgreSQL, appendix A).
_LOST_RACES = ("40001", "40P01")


def open_engine(url: str) -> Engine:
    """An engine for ``sqlite:///…`` or ``postgresql+psycopg://…``. Open it after the fork of a worker process."""
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, pool_size=32)
        event.listen(engine, "connect", _sqlite_connect)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    return create_engine(url, pool_size=16, max_overflow=32, pool_pre_ping=True, pool_timeout=30)


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Any) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


class Store:
    """Transactions on one database."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)
        self._writing = sessionmaker(self.engine, expire_on_commit=False)
        self._reading = sessionmaker(self.engine.execution_options(read_only=True), expire_on_commit=False)

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block, or rolls back when it raises."""
        with _explained(), self._writing.begin() as session:
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads; it never waits for a writer on SQLite."""
        with _explained(), self._reading.begin() as session:
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if is_conflict(error):
            raise
        raise Unavailable(
            f"the store does not answer: {error.orig}", hint="try again; if it stays, its operators look at the database", code="store_unavailable"
        ) from error


def is_conflict(error: Exception) -> bool:
    """Whether a transaction lost a race, for a unique value or a row's lock, and may be tried again."""
    if isinstance(error, OperationalError):
        return getattr(error.orig, "sqlstate", None) in _LOST_RACES
    return isinstance(error, IntegrityError)
