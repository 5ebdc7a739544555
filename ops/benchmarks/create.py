"""From a request to a running container and back: by phase, serial and eight at once, beside the bare runtime."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
from measure import Series, connect, finish, memory_fields, pss, quiet, timed
from rich.console import Console
from rich.table import Table

from hostler.client.client import Client
from hostler.core.api import ContainerOut, OperationOut
from hostler.core.names import new_id
from hostler.host.process import run
from hostler.node.lab.layout import DEFAULT_HOME
from hostler.node.lab.leftovers import marked_processes

IMAGE = "busybox"
#: What one container after another has: all limits, the CPU cap included.
ONE = "small"
#: What a hundred at once have: the same, but a weight in place of the cap, as their caps would add up to more than is promised.
MANY, MANY_LIMITS = "bench-weight", {"cpu_weight": 50, "memory": "64M", "disk": "256M", "pids": 64, "rate_in": "50Mbit", "rate_out": "50Mbit"}
#: Containers that stay while their memory is measured.
IDLE = 30


@dataclass
class Figures:
    """All that was measured."""

    verbs: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))
    phases: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))

    def note_create(self, total: float, operation: OperationOut) -> None:
        """A create: what the caller saw, and where the time went."""
        self.verbs["create"].add(total)
        steps = [step for step in operation.steps if step.node]
        for step in steps:
            self.phases[step.name].add(step.ms or 0)
        if operation.started_at:
            self.phases["until it is begun"].add((operation.started_at - operation.created_at).total_seconds() * 1000)
        self.phases["store, broker, panel: all but the steps"].add(total - sum(step.ms or 0 for step in steps))


def life(client: Client, name: str, figures: Figures) -> None:
    """One container from create to delete, each operation timed."""
    began = time.perf_counter()
    asked = client.create({"name": name, "image": IMAGE, "plan": ONE})
    figures.verbs["answer 202"].add((time.perf_counter() - began) * 1000)
    ended = finish(client, asked)
    figures.note_create((time.perf_counter() - began) * 1000, ended)
    for verb, ask in (
        ("exec true", partial(client.exec, name, {"args": ["true"]})),
        ("resize", partial(client.resize, name, {"memory": "300M", "cpu": 0.4})),
        ("stop", partial(client.stop, name)),
        ("start", partial(client.start, name)),
        ("delete", partial(client.delete, name)),
    ):
        figures.verbs[verb].add(timed(partial(_done, client, ask)))


def _done(client: Client, ask: Any) -> None:
    finish(client, ask())


def many(count: int, at_once: int) -> tuple[float, float, Series]:
    """Create ``count`` containers, then delete them: seconds for each, and each create's time."""
    names = [f"bench-{new_id(6)}" for _ in range(count)]
    series = Series()

    def create(name: str) -> None:
        with connect() as client:
            series.add(timed(lambda: finish(client, client.create({"name": name, "image": IMAGE, "plan": MANY}))))

    def delete(name: str) -> None:
        with connect() as client:
            finish(client, client.delete(name))

    with ThreadPoolExecutor(at_once) as pool:
        created = timed(lambda: list(pool.map(create, names))) / 1000
        deleted = timed(lambda: list(pool.map(delete, names))) / 1000
    return created, deleted, series


def bare_runtime(program: str, config: dict[str, Any], count: int) -> tuple[Series, Series]:
    """``runc run -d`` and ``runc delete --force`` (or crun, as ``program`` says) of the same bundle: its namespaces, ids, capabilities and seccomp profile,
    on an unpacked copy of the image; no network link, quota, log, init, nor limits."""
    run_series, delete_series = Series(), Series()
    folder = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    folder.chmod(0o755)
    try:
        _plain_bundle(folder, config)
        for number in range(count):
            name = f"bench{os.getpid()}-{number}"
            runtime: list[str | Path] = [program, "--root", folder / "state"]
            with open(os.devnull, "wb") as quiet:
                run_series.add(timed(partial(run, [*runtime, "run", "-d", "--bundle", folder, name], stdout=quiet, stderr=quiet)))
                delete_series.add(timed(partial(run, [*runtime, "delete", "--force", name], stdout=quiet, stderr=quiet)))
    finally:
        shutil.rmtree(folder)
    return run_series, delete_series


def _plain_bundle(folder: Path, config: dict[str, Any]) -> None:
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "busybox", root / "bin/busybox")
    for part in ("proc", "dev", "sys", "etc", "tmp", "run"):
        (root / part).mkdir()
    linux = dict(config["linux"])
    base = linux["uidMappings"][0]["hostID"]
    for path in (root, *root.rglob("*")):
        os.chown(path, base, base)
    linux["cgroupsPath"] = f"hostler-bench-{os.getpid()}"
    mounts = [mount for mount in config["mounts"] if mount["destination"] in ("/proc", "/dev", "/dev/pts", "/dev/shm", "/sys")]
    process = dict(config["process"]) | {"args": ["/bin/busybox", "sleep", "600"]}
    plain = dict(config) | {"root": {"path": str(root)}, "linux": linux, "mounts": mounts, "process": process}
    (folder / "config.json").write_text(json.dumps(plain))


def bundle_of(home: Path, container: ContainerOut) -> dict[str, Any]:
    """The runtime configuration of a container that runs now."""
    found = next(home.glob(f"node/*/ns/{container.drivers['ns']}/bundles/{container.id}/config.json"))
    config: dict[str, Any] = json.loads(found.read_text())
    return config


def idle_cost(client: Client, home: Path, count: int) -> list[tuple[str, float]]:
    """KiB per idle container: its init, the platform's growth, the kernel's growth. And the platform itself."""
    kernel = ("SUnreclaim", "KernelStack", "PageTables", "Percpu")
    platform = marked_processes(home)
    before = (pss(platform), memory_fields(*kernel))
    names = [f"bench-{new_id(6)}" for _ in range(count)]
    for name in names:
        finish(client, client.create({"name": name, "image": IMAGE, "plan": MANY}))
    time.sleep(3)
    after = (pss(marked_processes(home)), memory_fields(*kernel))
    inits = [int(json.loads(file.read_text())["pid"]) for file in home.glob("node/*/containers/*/init.json")]
    init = pss(inits) / max(len(inits), 1)
    for name in names:
        finish(client, client.delete(name))
    return [
        ("its init, the only process of the platform in it", init),
        ("growth of panel, workers, watch and Redis", (after[0] - before[0]) / count),
        ("growth of the kernel's slab, stacks and page tables", (after[1] - before[1]) / count),
        ("panel, workers, watches, Redis and supervisor together, whatever runs", after[0]),
    ]


@click.command(help=__doc__)
@click.option("--count", default=20, show_default=True, help="containers one after another")
@click.option("--many", "hundred", default=100, show_default=True, help="containers eight at a time; 0 leaves it out")
@click.option("--home", type=click.Path(path_type=Path), default=DEFAULT_HOME, show_default=True)
def main(count: int, hundred: int, home: Path) -> None:
    """Run it and print tables."""
    quiet()
    console = Console(width=100)
    with connect(home) as client:
        _prepare(client)
        try:
            measure(client, home, count, hundred, console)
        finally:
            _clean_up(client)


def measure(client: Client, home: Path, count: int, hundred: int, console: Console) -> None:
    """Everything, printed as it comes."""
    figures = Figures()
    life(client, f"bench-{new_id(6)}", Figures())  # the image is unpacked, caches are warm
    for _ in range(count):
        life(client, f"bench-{new_id(6)}", figures)
    holder = f"bench-{new_id(6)}"
    finish(client, client.create({"name": holder, "image": IMAGE, "plan": ONE}))
    held = client.container(holder)
    runtime = held.drivers["ns"]
    bare = bare_runtime(runtime, bundle_of(home, held), count)
    finish(client, client.delete(holder))
    console.print(_verbs_table(figures, runtime, bare, count))
    console.print(_phases_table(figures))
    if hundred:
        created, deleted, series = many(hundred, 8)
        console.print(_many_table(hundred, created, deleted, series))
    console.print(_memory_table(idle_cost(client, home, IDLE)))


def _clean_up(client: Client) -> None:
    """Delete what an interrupted run left."""
    for container in client.containers(name="bench-"):
        finish(client, client.delete(container.name))


def _prepare(client: Client) -> None:
    if MANY not in {plan.name for plan in client.plans()}:
        client.create_plan(MANY, MANY_LIMITS, description="for benchmarks")
    if IMAGE not in {image.name for image in client.images()}:
        finish(client, client.build_image(IMAGE, IMAGE))


def _verbs_table(figures: Figures, runtime: str, bare: tuple[Series, Series], count: int) -> Table:
    table = Table(title=f"one after another, {count} each: ms from the call to the answer", title_justify="left")
    for column in ("", "p50", "p95"):
        table.add_column(column, justify="left" if not column else "right")
    for verb, series in figures.verbs.items():
        table.add_row(verb, f"{series.p50:.0f}", f"{series.p95:.0f}")
    table.add_section()
    table.add_row(f"bare: {runtime} run -d", f"{bare[0].p50:.0f}", f"{bare[0].p95:.0f}")
    table.add_row(f"bare: {runtime} delete --force", f"{bare[1].p50:.0f}", f"{bare[1].p95:.0f}")
    table.add_row("create ÷ bare run", f"{figures.verbs['create'].p50 / bare[0].p50:.1f}", "")
    return table


def _phases_table(figures: Figures) -> Table:
    table = Table(title="where the time of create goes, ms", title_justify="left")
    for column in ("phase", "p50", "p95"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase, series in figures.phases.items():
        table.add_row(phase, f"{series.p50:.1f}", f"{series.p95:.1f}")
    return table


def _many_table(count: int, created: float, deleted: float, series: Series) -> Table:
    table = Table(title=f"{count} containers, eight at a time", title_justify="left")
    for column in ("", "per second", "p50 ms", "p95 ms"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("create", f"{count / created:.1f}", f"{series.p50:.0f}", f"{series.p95:.0f}")
    table.add_row("delete", f"{count / deleted:.1f}", "", "")
    return table


def _memory_table(rows: list[tuple[str, float]]) -> Table:
    table = Table(title=f"memory, KiB per idle container ({IDLE} of them)", title_justify="left")
    table.add_column("")
    table.add_column("KiB", justify="right")
    for what, size in rows:
        table.add_row(what, f"{size:.0f}")
    return table


if __name__ == "__main__":
    main()
