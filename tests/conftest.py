"""Fixtures for all tests: real stores and a real Redis, started on private sockets and stopped again."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy

from hostler.store.engine import Store
from hostler.store.migrate import upgrade

#: The time that a service which a test started may take to answer, in seconds.
PATIENCE = 30.0

# Block I/O limits, page cache and disk usage need a real disk below tmp_path, and /tmp is a tmpfs on Debian 13. This is pytest's own
# setting, read when the first test asks for a folder.
if "TMPDIR" not in os.environ:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/var/tmp")


#: Where a service of the tests' own keeps its files: in memory, if there is room for them.
_IN_MEMORY, _ROOM = Path("/dev/shm"), 1 << 30


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look at it a hundred times again, which took a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets (108 bytes), which every user may enter."""
    roomy = _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK) and shutil.disk_usage(_IN_MEMORY).free >= _ROOM
    folder = Path(tempfile.mkdtemp(prefix="hst-", dir=_IN_MEMORY if roomy else "/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=False)


def _wait(ready: os.PathLike[str], process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not Path(ready).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not start")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_socket(short_tmp: Path) -> Iterator[Path]:
    """The socket of a Redis server of the tests' own."""
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not installed: run ops/test")
    socket = short_tmp / "redis.sock"
    server = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(short_tmp)], stdout=subprocess.DEVNULL
    )
    try:
        _wait(socket, server, "redis-server")
        yield socket
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE)


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise RuntimeError("PostgreSQL is not installed: run ops/test")
    return found[-1].parent


@pytest.fixture(scope="session")
def postgres(short_tmp: Path) -> Iterator[str]:
    """URL of a PostgreSQL server of the tests' own; its programs refuse to run as root, so it belongs to nobody."""
    programs, folder = _postgres_programs(), short_tmp / "pg"
    folder.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid", "nobody", "--clear-groups", "--"]
    data = folder / "data"
    subprocess.run(
        [*as_user, str(programs / "initdb"), "-D", str(data), "-U", "hostler", "-A", "trust", "-N", "--no-instructions", "-E", "UTF8", "--locale", "C"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
        cwd="/",
    )
    options = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "max_connections=200"]
    server = subprocess.Popen([*as_user, str(programs / "postgres"), "-D", str(data), *options], stderr=subprocess.DEVNULL, cwd="/")
    try:
        _wait(folder / ".s.PGSQL.5432", server, "postgres")
        url = f"postgresql+psycopg://hostler@/postgres?host={folder}"
        _wait_for_sql(url)
        yield url
    finally:
        server.send_signal(2)  # SIGINT: a fast shutdown
        server.wait(timeout=PATIENCE)


def _wait_for_sql(url: str) -> None:
    engine = sqlalchemy.create_engine(url)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with engine.connect():
                break
        except sqlalchemy.exc.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    engine.dispose()


@dataclass(frozen=True)
class _Tables:
    """A PostgreSQL database with all tables, emptied for each test: a tenth of the time of a new database."""

    url: str
    control: sqlalchemy.Engine
    names: tuple[str, ...]

    def empty(self) -> None:
        """End who is still connected, as when a database is dropped; then empty all tables and begin their numbers anew."""
        with self.control.connect() as connection:
            connection.execute(
                sqlalchemy.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            )
            connection.execute(sqlalchemy.text(f"TRUNCATE {', '.join(self.names)} RESTART IDENTITY CASCADE"))


@pytest.fixture(scope="session")
def _postgres_tables(postgres: str) -> Iterator[_Tables]:
    upgrade(postgres)
    control = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    names = [name for name in sqlalchemy.inspect(control).get_table_names() if name != "alembic_version"]
    yield _Tables(postgres, control, tuple(names))
    control.dispose()


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, copied for each test."""
    file = tmp_path_factory.mktemp("template") / "store.sqlite3"
    upgrade(f"sqlite:///{file}")
    assert not file.with_name(file.name + "-wal").exists(), "what was written is not in the file yet"
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty, migrated store: once SQLite, once PostgreSQL."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("_sqlite_template")
        shutil.copyfile(template, tmp_path / "store.sqlite3")
        return f"sqlite:///{tmp_path}/store.sqlite3"
    tables: _Tables = request.getfixturevalue("_postgres_tables")
    tables.empty()
    return tables.url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store."""
    opened = Store(store_url)
    yield opened
    opened.close()
