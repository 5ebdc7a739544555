"""Each driver's verbs beside the bare tools that do the same work in the kernel; with --many, pools of thousands of volumes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
from bare import images, limits, net, ns, storage
from bare.step import Subject, tool
from measure import Series, quiet, timed
from rich.console import Console
from rich.table import Table

from hostler.core.units import GIB, MIB
from hostler.host import native
from hostler.testing.arenas import ARENAS
from hostler.testing.arenas.arena import Arena
from hostler.testing.arenas.storage import IMAGE, StorageArena

#: Driver → its work by bare tools.
SUBJECTS: dict[str, Callable[[Any], Subject]] = {
    **{f"net:{name}": kind for name, kind in net.KINDS.items()},
    **{f"storage:{name}": kind for name, kind in storage.KINDS.items()},
    "limits:cgroup1": limits.Cgroup1,
    "ns:runc": ns.Runtime,
    "ns:crun": ns.Runtime,
    "images:rootfs": images.Archive,
    "images:oci": images.Archive,
}
#: A driver's verb may take so many times what the bare tool does.
MOST = 2.0
#: What a container's network may take, in ms.
ATTACH_MOST = 15.0
#: Pools for thousands of volumes: sparse files, and no reserve that a full disk would count against.
MANY = {
    "storage:btrfs": '{"pool": "{folder}/pool", "file": "{folder}/pool.btrfs", "size": "20G", "reserve": "8M"}',
    "storage:loop": '{"reserve": "8M"}',
}
#: Figures of so many volumes are a median's, beside all the others.
_SAMPLE = 15


@dataclass
class Row:
    """A verb's figures."""

    ours: Series = field(default_factory=Series)
    bare: Series = field(default_factory=Series)
    note: str = ""

    def ratio(self) -> float | None:
        """Ours in bare tools' times, by medians; None where no tool does it."""
        return self.ours.p50 / self.bare.p50 if self.bare.values else None

    def verdict(self, verb: str) -> str:
        """What does not hold, and the note."""
        said = [self.note] if self.note else []
        ratio = self.ratio()
        if ratio is not None and ratio > MOST:
            said.insert(0, f"[red]more than {MOST:g} times[/]")
        if verb == "attach" and self.ours.p50 > ATTACH_MOST:
            said.insert(0, f"[red]more than {ATTACH_MOST:g} ms[/]")
        return "; ".join(said)


@contextmanager
def arena_of(spec: str, libexec: Path, settings: str | None = None) -> Iterator[Arena]:
    """A driver with an environment of its own, in it, and gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = ARENAS[spec.partition(":")[0]](spec, folder, libexec, settings)
    try:
        made.open()
        with made.inside():
            yield made
    finally:
        made.close()


def lacks(spec: str, libexec: Path) -> str:
    """Why the driver cannot be measured here; empty when it can."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-bench-", dir="/var/tmp"))
    try:
        driver = ARENAS[spec.partition(":")[0]](spec, folder, libexec, None).recipe.make()
        return "; ".join(lack.what for lack in driver.probe().lacks if lack.blocks and lack.what.partition(" ")[0] != "no")
    finally:
        shutil.rmtree(folder)


def measure(arena: Arena, subject: Subject, rounds: int) -> dict[str, Row]:
    """Alternating, and each first in every other round. The first round warms caches and is not counted."""
    rows: dict[str, Row] = {}
    for number in range(rounds + 1):
        for step in subject.steps(number):
            row = Row(note=step.note) if number == 0 else rows[step.verb]
            rows[step.verb] = row
            pair = [(row.ours, step.ours), (row.bare, step.bare)]
            for series, act in pair if number % 2 else reversed(pair):
                if act is None:
                    continue
                taken = timed(act)
                if number:
                    series.add(taken)
    return rows


def show(spec: str, rows: dict[str, Row]) -> Table:
    """A driver's table."""
    table = Table(title=spec, title_justify="left")
    table.add_column("verb")
    for column in ("driver ms", "bare ms", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("bare is")
    for verb, row in rows.items():
        ratio = row.ratio()
        bare = ("–", "–") if ratio is None else (f"{row.bare.p50:.2f}", f"{ratio:.2f}")
        table.add_row(verb, f"{row.ours.p50:.2f}", *bare, row.verdict(verb))
    return table


# --- many volumes


def many(arena: StorageArena, counts: tuple[int, ...], seconds: float) -> dict[str, list[float]]:
    """Verb → its median at each count of volumes, in ms. Raises :class:`TimeoutError` when they cannot be made in that time."""
    driver, deadline = arena.storage, time.monotonic() + seconds
    found: dict[str, list[float]] = {"create": [], "snapshot": [], "usage": [], "delete_snapshot": [], "delete": []}
    there = 0
    for count in counts:
        while there < count:
            driver.create(f"m{there}", IMAGE, 16 * MIB)
            there += 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{there} volumes after {seconds:g} s")
        series = {verb: Series() for verb in found}
        for number in range(_SAMPLE):
            volume = f"s{number}"
            series["create"].add(timed(partial(driver.create, volume, IMAGE, 16 * MIB)))
            series["usage"].add(timed(partial(driver.usage, f"m{number * there // _SAMPLE}")))
            series["snapshot"].add(timed(partial(driver.snapshot, volume, "s1")))
            series["delete_snapshot"].add(timed(partial(driver.delete_snapshot, volume, "s1")))
            series["delete"].add(timed(partial(driver.delete, volume)))
        for verb, one in series.items():
            found[verb].append(one.p50)
    return found


def show_many(spec: str, counts: tuple[int, ...], found: dict[str, list[float]]) -> Table:
    """How it grows."""
    table = Table(title=f"{spec}: volumes on one pool, medians of {_SAMPLE} in ms", title_justify="left")
    table.add_column("verb")
    for count in counts:
        table.add_column(f"at {count}", justify="right")
    table.add_column("growth", justify="right")
    for verb, values in found.items():
        table.add_row(verb, *(f"{value:.2f}" for value in values), f"{values[-1] / values[0]:.1f}")
    return table


# --- the command


@click.command(help=__doc__)
@click.argument("drivers", nargs=-1)
@click.option("--rounds", default=15, show_default=True, help="how often each verb is measured")
@click.option("--many", "volumes", type=int, default=0, help="instead, verbs of btrfs and loop at 10 and at so many volumes, such as 2000")
@click.option("--seconds", default=600.0, show_default=True, help="that those may take to be made, each driver")
def main(drivers: tuple[str, ...], rounds: int, volumes: int, seconds: float) -> None:
    """DRIVERS are group:name or a group; without any, all that can be measured. Needs root."""
    quiet()
    console = Console(width=120, emoji=False)
    libexec = Path(tempfile.mkdtemp(prefix="hostler-bench-libexec-"))
    try:
        native.build(libexec)
        if volumes:
            _many(console, chosen(drivers, MANY), libexec, (10, volumes), seconds)
        else:
            _all(console, chosen(drivers, SUBJECTS), libexec, rounds)
    finally:
        shutil.rmtree(libexec)


def chosen(asked: tuple[str, ...], known: dict[str, Any]) -> list[str]:
    """Of the known drivers those asked for, by name or by group."""
    found = [spec for spec in known if not asked or spec in asked or spec.partition(":")[0] in asked]
    if not found:
        raise click.UsageError(f"choose among {', '.join(known)}")
    return found


def _all(console: Console, specs: list[str], libexec: Path, rounds: int) -> None:
    started = Series()
    for _ in range(rounds):
        started.add(timed(partial(tool, "true")))
    console.print(f"medians of {rounds}, driver and bare tool alternating; to start a process that does nothing takes {started.p50:.2f} ms of each bare one's time")
    for spec in specs:
        missing = lacks(spec, libexec)
        if missing:
            console.print(f"{spec} cannot be used here: {missing}")
            continue
        with arena_of(spec, libexec) as arena:
            subject = SUBJECTS[spec](arena)
            try:
                console.print(show(spec, measure(arena, subject, rounds)))
            finally:
                subject.close()


def _many(console: Console, specs: list[str], libexec: Path, counts: tuple[int, ...], seconds: float) -> None:
    for spec in specs:
        free = shutil.disk_usage("/var/tmp").free
        if free < 20 * GIB:
            raise click.ClickException(f"/var/tmp has {free // GIB} GiB free; 20 are needed")
        with arena_of(spec, libexec, MANY[spec]) as arena:
            assert isinstance(arena, StorageArena)
            console.print(show_many(spec, counts, many(arena, counts, seconds)))


if __name__ == "__main__":
    main()
