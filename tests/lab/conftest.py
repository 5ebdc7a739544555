"""One installation for all tests of this folder, and the looking-after that nothing of it or of any test stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostler.client.client import Client
from hostler.store.engine import Store
from tests.lab.installation import IMAGE, PLAN, Platform, entered
from tests.lab.leftovers import settled
from tests.lab.machine import apart

_LIMITS = {"cpu": 0.5, "memory": "48M", "pids": 48, "disk": "64M", "rate_in": "100Mbit", "rate_out": "100Mbit"}


@dataclass
class Fault:
    """A row of the table of moves that somebody died in."""

    point: str
    victim: str
    outcome: str = "not judged"
    gap: float = 0.0
    """Seconds from the fault until the container was heard again."""
    note: str = ""
    ok: bool = False


FAULTS = pytest.StashKey[list[Fault]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What became of the container, for each point of a move and each victim."""
    rows = config.stash[FAULTS]
    if not rows:
        return
    terminalreporter.section("moves with a fault")
    for fault in rows:
        said = "ok" if fault.ok else "WRONG"
        note = f" [{fault.note}]" if fault.note else ""
        terminalreporter.write_line(f"{said:6}{fault.point:16} {fault.victim:20} {fault.gap * 1000:6.0f} ms  {fault.outcome}{note}")
    gaps = sorted(fault.gap for fault in rows if fault.ok)
    if gaps:
        terminalreporter.write_line(f"{len(rows)} runs, {len(gaps)} ok; silent for {gaps[len(gaps) // 2] * 1000:.0f} ms (median), {gaps[-1] * 1000:.0f} ms at most")


@pytest.fixture(scope="session")
def installation() -> Iterator[Platform]:
    """Up, with an image and a plan; taken down at the end, when nothing of it may be left."""
    with apart("hst-lab-") as made:
        made.ops("up")
        token = made.lab.first_login.read_text().strip()
        store = Store(f"sqlite:///{made.lab.control}/store.sqlite3")
        with entered(made), Client(made.lab.panel_url, token) as client:
            platform = Platform(made, client, token, store)
            platform.done(client.build_image(IMAGE, "busybox"))
            client.create_plan(PLAN, _LIMITS)
        spaces = [os.stat(made.lab.netns(server)).st_ino for server in made.lab.servers]
        try:
            with Client(made.lab.panel_url, token) as platform.client:
                yield platform
        finally:
            store.close()
        made.ops("down", "--purge")
        left = [*made.left(), *(f"namespace {number} of process {pid}" for pid, number in _namespaces() if number in spaces)]
        assert left == []
        assert not made.lab.home.exists()


def _namespaces() -> Iterator[tuple[int, int]]:
    """Every process and its network namespace's number."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "ns/net").stat().st_ino
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended, or is guarded even from root, as none of ours is


@pytest.fixture
def platform(installation: Platform) -> Iterator[Platform]:
    """The installation with no container in it. The test runs on its machine; afterwards all is as before."""
    with entered(installation.apart):
        try:
            yield installation
        finally:
            installation.delete_all()
        settled(installation)
