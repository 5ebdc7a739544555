"""Moves between servers, suspend, resume and clone: what the tenant's clients notice, beside bare runc with CRIU."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
from measure import Series, connect, finish, quiet
from memory import bare, program
from rich.console import Console
from rich.table import Table

from hostler.client.client import Client
from hostler.core.api import ContainerOut, OperationOut
from hostler.core.names import new_id
from hostler.node.lab.layout import DEFAULT_HOME
from hostler.node.lab.up import find_criu

PLAN = "bench-mobility"
#: Beside the program's memory: its page tables, and what it is copied through.
_ROOM = 64
#: MB that the busy one rewrites in a second.
_BUSY = 50
#: Seconds before and after a move in which the client must see nothing.
_CALM = 0.5
#: The marks: ms that a client may see nothing, by megabytes; what suspend, resume and a clone's first answer may take.
GAPS = {10: 120.0, 1000: 250.0}
SUSPEND_MOST, RESUME_MOST, CLONE_MOST = 500.0, 250.0, 150.0
_SUSPENDED = 200
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass
class Moves:
    """Moves of one program."""

    megabytes: int
    rate: int
    gap: Series = field(default_factory=Series)
    frozen: Series = field(default_factory=Series)
    total: Series = field(default_factory=Series)
    bytes: Series = field(default_factory=Series)
    methods: set[str] = field(default_factory=set)
    phases: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))

    @property
    def words(self) -> str:
        """What moves."""
        return f"{self.megabytes} MB, {f'writing {self.rate} MB/s' if self.rate else 'idle'}"

    def note(self, gap: float, total: float, operation: OperationOut) -> None:
        """One move."""
        report: dict[str, Any] = operation.result or {}
        self.gap.add(gap)
        self.total.add(total)
        self.frozen.add(report.get("frozen_ms") or float("nan"))
        self.bytes.add(report.get("bytes", 0) / 1e6)
        self.methods.add(str(report.get("method")))
        for name, ms in report.get("phases", {}).items():
            self.phases[f"source: {name}"].add(ms)
        for step in operation.steps:
            if step.node:
                self.phases[f"step: {step.name}"].add(step.ms or 0)


@contextmanager
def container(client: Client, megabytes: int, rate: int = 0) -> Iterator[ContainerOut]:
    """One that runs the program, and listens."""
    name = f"bench-{new_id(6)}"
    args = ["/bin/hog", str(program.PORT), str(megabytes), str(rate)]
    limits = {"memory": f"{megabytes + _ROOM}M"}
    finish(client, client.create({"name": name, "image": program.stocked(client), "plan": PLAN, "args": args, "limits": limits}))
    try:
        made = client.container(name)
        _until(partial(_answers, made.address_v4 or ""), 60)
        yield made
    finally:
        finish(client, client.delete(name))


def moves(client: Client, megabytes: int, rate: int, count: int) -> Moves:
    """Move it there and back in turns while a client asks it every millisecond."""
    found = Moves(megabytes, rate)
    with container(client, megabytes, rate) as made:
        for number in range(count + 1):
            gap, total, operation = _one_move(client, made)
            if number:  # at the first the image comes to the other server
                found.note(gap, total, operation)
    return found


def _one_move(client: Client, made: ContainerOut) -> tuple[float, float, OperationOut]:
    here = client.container(made.name).node
    there = next(node.name for node in client.nodes() if node.name != here and node.state == "online")
    with program.talking(made.address_v4 or "") as seen:
        time.sleep(_CALM)
        began = time.perf_counter()
        ended = finish(client, client.migrate(made.name, to=there))
        total = (time.perf_counter() - began) * 1000
        time.sleep(_CALM)
    return seen.worst, total, ended


def suspends(client: Client, count: int) -> dict[str, Series]:
    """Suspend and resume, as the caller sees them and as the servers say; and a client that waits meanwhile."""
    found: dict[str, Series] = defaultdict(Series)
    with container(client, _SUSPENDED) as made, program.talking(made.address_v4 or ""):
        for _ in range(count):
            for verb, ask in (("suspend", client.suspend), ("resume", client.resume)):
                _time_verb(client, verb, partial(ask, made.name), found)
            time.sleep(_CALM)
    return found


def _time_verb(client: Client, verb: str, ask: Callable[[], OperationOut], found: dict[str, Series]) -> None:
    began = time.perf_counter()
    ended = finish(client, ask())
    found[verb].add((time.perf_counter() - began) * 1000)
    for step in ended.steps:
        if step.node:
            found[f"{verb}: {step.name}"].add(step.ms or 0)


def clones(client: Client, count: int) -> dict[str, Series]:
    """From the call until a clone of a warm web server answers HTTP, on its own address."""
    found: dict[str, Series] = defaultdict(Series)
    with container(client, 10) as made:
        asked = client.checkpoint(made.name)
        finish(client, asked)
        checkpoint = next(one.id for one in client.checkpoints(container=made.name))
        for _ in range(count):
            name = f"bench-{new_id(6)}"
            began = time.perf_counter()
            _until(partial(_answers, _clone(client, made.name, checkpoint, name, found)), 30, 0.001)
            found["clone answers"].add((time.perf_counter() - began) * 1000)
            finish(client, client.delete(name))
    return found


def _clone(client: Client, source: str, checkpoint: str, name: str, found: dict[str, Series]) -> str:
    """Its address."""
    _time_verb(client, "clone", partial(client.clone, source, checkpoint, name), found)
    return client.container(name).address_v4 or ""


def _answers(address: str) -> bool:
    """Whether ``GET /`` is answered."""
    try:
        with socket.create_connection((address, program.PORT), timeout=1) as link:
            link.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return link.recv(12) == b"HTTP/1.0 200"
    except OSError:
        return False


def _until(done: Callable[[], bool], seconds: float, grain: float = 0.02) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing answers within {seconds:g} s")
        time.sleep(grain)


@click.command(help=__doc__)
@click.option("--size", "sizes", type=int, multiple=True, default=(10, 200), show_default=True, help="MB of memory; may be given again")
@click.option("--large", is_flag=True, help="1,000 MB as well")
@click.option("--count", default=5, show_default=True, help="moves of each, after one that is not counted")
@click.option("--home", type=click.Path(path_type=Path), default=DEFAULT_HOME, show_default=True)
@click.option("--url", default="http://127.0.0.1:8650", show_default=True, help="the panel")
def main(sizes: tuple[int, ...], large: bool, count: int, home: Path, url: str) -> None:
    """Run it and print tables."""
    quiet()
    console = Console(width=120)
    with connect(home, url) as client:
        if PLAN not in {plan.name for plan in client.plans()}:
            client.create_plan(PLAN, {"memory": "1500M", "pids": 64, "disk": "128M"}, description="for benchmarks")
        try:
            measure(client, [*sizes, *([1000] if large else [])], count, console)
        finally:
            for left in client.containers(name="bench-"):
                finish(client, client.delete(left.name))


def measure(client: Client, sizes: list[int], count: int, console: Console) -> None:
    """Everything, printed as it comes."""
    found = [moves(client, size, rate, count) for size in sizes for rate in (0, _BUSY)]
    console.print(_moves_table(found, count))
    console.print(_phases_table(found))
    figures = suspends(client, count) | clones(client, count)
    criu = find_criu(_CHECKOUT)
    runc = bare.runc(criu, _SUSPENDED, count) if criu is not None else None
    console.print(_memory_table(figures, runc))


def _moves_table(found: list[Moves], count: int) -> Table:
    table = Table(title=f"moves, {count} each: median (largest)", title_justify="left")
    for column in ("", "client's worst gap ms", "at most", "frozen ms", "total ms", "MB sent", "method"):
        table.add_column(column, justify="left" if column in ("", "method") else "right")
    for row in found:
        series = (row.frozen, row.total)
        most = f"{GAPS[row.megabytes]:.0f}" if row.megabytes in GAPS else ""
        table.add_row(row.words, _middle(row.gap), most, *(_middle(one) for one in series), f"{row.bytes.p50:.0f}", ", ".join(sorted(row.methods)))
    return table


def _phases_table(found: list[Moves]) -> Table:
    table = Table(title="where the time goes: median ms; what the source does runs side by side in part", title_justify="left")
    table.add_column("")
    for row in found:
        table.add_column(row.words, justify="right")
    for phase in dict.fromkeys(name for row in found for name in row.phases):
        table.add_row(phase, *(f"{row.phases[phase].p50:.1f}" if phase in row.phases else "" for row in found))
    return table


def _memory_table(figures: dict[str, Series], runc: tuple[Series, Series] | None) -> Table:
    table = Table(title=f"{_SUSPENDED} MB to disk and back, and clones of a warm web server with 10 MB: ms from the call to the answer", title_justify="left")
    for column in ("", "median", "largest", "at most"):
        table.add_column(column, justify="right" if column else "left")
    most = {"suspend": SUSPEND_MOST, "resume": RESUME_MOST, "clone answers": CLONE_MOST}
    for name, series in figures.items():
        table.add_row(f"  {name}" if ":" in name else name, f"{series.p50:.0f}", f"{max(series.values):.0f}", f"{most[name]:.0f}" if name in most else "")
    if runc is not None:
        table.add_section()
        for verb, series in zip(("checkpoint", "restore"), runc, strict=True):
            table.add_row(f"bare: runc {verb}", f"{series.p50:.0f}", f"{max(series.values):.0f}", "")
    return table


def _middle(series: Series) -> str:
    return f"{series.p50:.0f} ({max(series.values):.0f})"


if __name__ == "__main__":
    main()
