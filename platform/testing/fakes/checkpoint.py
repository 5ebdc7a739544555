"""Fake checkpoints: the fake processes' memory as a plain file, and back. What is restored is a number in a fake cgroup, held until it is released."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hostler.contracts.checkpoint import (
    Checkpoint,
    CheckpointCapabilities,
    DumpReport,
    Landing,
    Obstacle,
    Renaming,
    Shape,
)
from hostler.contracts.driver import Host, Item, Probe
from hostler.core.errors import Conflict
from hostler.testing.fakes.limits import read_memory, read_pids, write_memory, write_pids
from hostler.testing.fakes.ns import HIERARCHY, fresh_pid
from hostler.testing.fakes.shelf import write_record
from hostler.testing.faults import Faults

_PAGE = 4096
_PAGES = "pages"


class FakeCheckpoint(Checkpoint):
    """Driver ``fake``. Processes that remember something beginning with ``device`` cannot be checkpointed."""

    name: ClassVar[str] = "fake"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.faults = Faults(host.state_dir)

    @property
    def capabilities(self) -> CheckpointCapabilities:
        return CheckpointCapabilities(pre_copy=True, rename=True)

    @property
    def writer(self) -> str:
        return "fake 1"

    def probe(self) -> Probe:
        return Probe(offers=["plain files"])

    def inventory(self) -> list[Item]:
        return []

    def teardown(self) -> None:
        """There is nothing that containers share."""

    def examine(self, shape: Shape) -> list[Obstacle]:
        memory = read_memory(_group(shape))
        if memory.startswith("device"):
            return [Obstacle(code="device", message=f"a process has {memory} open", remedy="end it first")]
        return []

    def dump(self, shape: Shape, images: Path, *, parent: Path | None = None, memory: int | None = None, halt: Callable[[], None] | None = None) -> DumpReport:
        if halt is not None:
            halt()
        if memory is not None:
            raise self._refuse("let memory follow after the freeze")
        self.faults.passing("checkpoint.dump")
        for obstacle in self.examine(shape):
            raise Conflict(f"container {shape.container} cannot be checkpointed: {obstacle.message}", hint=obstacle.remedy, code="cannot_checkpoint")
        report = self._write(shape, images, parent)
        self.faults.passing("checkpoint.dump:done")
        return report

    def pre_dump(self, shape: Shape, images: Path, *, parent: Path | None = None) -> DumpReport:
        self.faults.passing("checkpoint.pre_dump")
        return self._write(shape, images, parent)

    def rename(self, images: Path, to: Renaming) -> None:
        """Fake processes know neither name nor address: there is nothing to change in what they remember."""
        if not (images / _PAGES).is_file():
            raise Conflict("these are no images of fake processes", hint="take another checkpoint", code="cannot_clone")

    def _write(self, shape: Shape, images: Path, parent: Path | None) -> DumpReport:
        began = time.monotonic()
        group = _group(shape)
        if shape.pid not in read_pids(group):
            raise Conflict(f"container {shape.container} has ended", hint="start it first", code="wrong_state")
        memory = read_memory(group)
        pages = 1 + len(memory) // _PAGE
        known = parent is not None and (parent / _PAGES).read_text() == memory
        (images / _PAGES).write_text(memory)
        size = sum(entry.stat().st_size for entry in images.iterdir())
        took = (time.monotonic() - began) * 1000
        return DumpReport(pages=0 if known else pages, skipped=pages if known else 0, bytes=size, milliseconds=took)

    def restore(
        self, landing: Landing, images: Path, furnish: Callable[[int], None], *, close_connections: bool = False, memory: int | None = None
    ) -> int:
        if memory is not None:
            raise self._refuse("let memory follow after the freeze")
        self.faults.passing("checkpoint.restore")
        self.abandon(images)
        group = Path(landing.words[-1])
        pid = fresh_pid(landing.container)
        work = images / "work"
        work.mkdir()
        write_record(work, {"pid": pid, "cgroup": str(group), "released": False, "close_connections": close_connections})
        try:
            write_pids(group, [*read_pids(group), pid])
            furnish(pid)
            write_memory(group, (images / _PAGES).read_text())
            self.faults.passing("checkpoint.restore:done")
        except BaseException:
            self.abandon(images)
            raise
        return pid

    def held(self, images: Path) -> int | None:
        record = _record(images)
        waits = bool(record) and not record["released"] and record["pid"] in read_pids(Path(record["cgroup"]))
        return int(record["pid"]) if waits else None

    def was_released(self, images: Path) -> bool:
        return bool(_record(images).get("released"))

    def release(self, images: Path) -> None:
        self.faults.passing("checkpoint.release")
        record = _record(images)
        if record.get("released"):
            return
        if self.held(images) is None:
            raise Conflict("no restored container is held here", hint="restore it again", code="not_held")
        write_record(images / "work", record | {"released": True})

    def abandon(self, images: Path) -> None:
        self.faults.passing("checkpoint.abandon")
        pid, record = self.held(images), _record(images)
        if pid is not None:
            group = Path(record["cgroup"])
            write_pids(group, [other for other in read_pids(group) if other != pid])
        if record:
            shutil.rmtree(images / "work")


def _group(shape: Shape) -> Path:
    return Path(shape.cgroups[HIERARCHY])


def _record(images: Path) -> dict[str, Any]:
    """Who was restored over these images; empty without."""
    try:
        record: dict[str, Any] = json.loads((images / "work" / "record.json").read_text())
    except FileNotFoundError:
        return {}
    return record
