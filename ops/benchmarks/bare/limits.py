"""Limits: ``mkdir``, ``sh`` with ``echo``, ``cat`` and ``rmdir``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bare.step import Step, Subject, tool
from hostler.core.limits import Limits
from hostler.testing.arenas.limits import MORE, SOME, LimitsArena
from hostler_plugins.limits import v1
from hostler_plugins.limits.writes import Write

_READ = (
    "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt", "memory.stat", "memory.oom_control", "cpuacct.usage", "cpu.stat",
    "pids.current", "pids.events", "blkio.throttle.io_service_bytes",
)  # fmt: skip


class Cgroup1(Subject):
    """The same folders and files as the driver's."""

    def __init__(self, arena: LimitsArena) -> None:
        self.driver = arena.limits
        self._scripts = arena.folder
        like = {key: Path(folder) for key, folder in self.driver.create("c09", SOME).parents.items()}
        self.driver.remove("c09")
        self.folders = {key: folder.with_name("bare") for key, folder in like.items()}
        mems = (like["cpuset"].parent / "cpuset.mems").read_text().strip()
        cpus = (like["cpuset"].parent / "cpuset.cpus").read_text().strip()
        first = [Write("cpuset", "cpuset.cpus", cpus), Write("cpuset", "cpuset.mems", mems)]
        self._make = self._script("make", [*first, *self._writes(SOME, cpus, 2**60)])
        self._change = self._script("change", self._writes(MORE, cpus, SOME.memory or 0))

    def _writes(self, limits: Limits, cpus: str, swap_limit_now: int) -> list[Write]:
        both = (self.folders["memory"].parent / "memory.memsw.limit_in_bytes").exists()
        writes = v1.all_writes(limits, inherited_cpus=cpus, swap_limit_now=swap_limit_now if both else None, devices=())
        return [write for write in writes if (self.folders[write.key].parent / write.file).exists()]

    def _script(self, name: str, writes: list[Write]) -> Path:
        file = self._scripts / f"{name}.sh"
        file.write_text("".join(f"echo {write.value} > {self.folders[write.key] / write.file}\n" for write in writes))
        return file

    def steps(self, number: int) -> list[Step]:
        driver, places = self.driver, set(self.folders.values())
        read = [folder / name for folder in places for name in _READ if (folder.parent / name).exists()]

        def create() -> None:
            tool("mkdir", *places)
            tool("sh", "-e", self._make)

        return [
            Step("create", partial(driver.create, "c00", SOME), create, f"mkdir of {len(places)} folders, echo: 2 processes"),
            Step("apply", partial(driver.apply, "c00", MORE), partial(tool, "sh", "-e", self._change), "echo"),
            Step("usage", partial(driver.usage, "c00"), partial(tool, "cat", *read), f"cat of {len(read)} files"),
            Step("processes", partial(driver.processes, "c00"), partial(tool, "cat", self.folders["memory"] / "cgroup.procs"), "cat"),
            Step("remove", partial(driver.remove, "c00"), partial(tool, "rmdir", *places), "rmdir"),
        ]
