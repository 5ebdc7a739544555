"""What benchmarks share: the platform of this machine, percentiles, memory."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hostler.client.client import Client, failure
from hostler.core.api import OperationOut
from hostler.node.lab.layout import DEFAULT_HOME


@dataclass
class Series:
    """Figures of one thing, in milliseconds."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """One more."""
        self.values.append(value)

    @property
    def p50(self) -> float:
        """Median."""
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def p95(self) -> float:
        """The value that 95 of 100 stay below."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] if ordered else float("nan")


def timed(act: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def quiet() -> None:
    """Only warnings are logged: the commands that a benchmark runs are not news."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def connect(home: Path = DEFAULT_HOME, url: str = "http://127.0.0.1:8650") -> Client:
    """A client of the platform that ops/up started, with its first token."""
    return Client(url, (home / "etc/first-login").read_text().strip())


def finish(client: Client, operation: OperationOut) -> OperationOut:
    """Wait for an operation; what made it fail is raised."""
    ended = client.wait(operation.id)
    error = failure(ended)
    if error is not None:
        raise error
    return ended


def memory_fields(*names: str) -> int:
    """Sum of fields of /proc/meminfo, in KiB."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(words[1]) for words in lines if words[0].rstrip(":") in names)


def pss(pids: Iterable[int]) -> int:
    """Proportional set size of processes in KiB (proc(5), smaps_rollup); what ended meanwhile counts nothing."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total
