"""Environment of limits drivers: containers that are nothing but a sleeping process."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import cast

from hostler.contracts.limits import Cgroup, LimitsDriver
from hostler.core.errors import HostlerError, NotFound
from hostler.core.limits import Limits
from hostler.core.units import MIB
from hostler.testing.arenas.arena import Arena, Scene
from hostler.testing.fakes.limits import write_pids
from hostler.testing.zygote import Call

SOME, MORE = Limits(memory=64 * MIB, pids=64, cpu=0.5), Limits(memory=96 * MIB, pids=96, cpu=1)
_NOT_THERE = "n0where"
_FAKE_PID = 1 << 23


class LimitsArena(Arena):
    """See the module."""

    small_records = True

    def __init__(self, spec: str, folder: Path, libexec: Path, settings: str | None) -> None:
        super().__init__(spec, folder, libexec, settings)
        self._sleepers: list[subprocess.Popen[bytes]] = []

    @property
    def limits(self) -> LimitsDriver:
        """The driver by its contract."""
        return cast(LimitsDriver, self.driver)

    def scenes(self, number: int = 0) -> list[Scene]:
        container = f"c0{number}"
        make: Call = ("create", (container, SOME))
        drop: Call = ("remove", (container,))
        shared: Call = ("create", (container, SOME, "acc0", 300))
        return [
            Scene([], make, [drop], owner=container),
            Scene([], shared, [drop], owner=container),
            Scene([shared], drop),
            Scene([make], ("apply", (container, MORE)), [drop], owner=container),
            Scene([make], drop),
        ]

    def absent(self) -> list[tuple[Call, type[HostlerError] | None]]:
        return [
            (("remove", (_NOT_THERE,)), None),
            (("processes", (_NOT_THERE,)), None),
            (("apply", (_NOT_THERE, SOME)), NotFound),
            (("usage", (_NOT_THERE,)), NotFound),
            (("oom_kills", (_NOT_THERE,)), NotFound),
        ]

    def hostile(self, name: str) -> list[Call]:
        return [("create", (name, SOME)), ("apply", (name, SOME)), ("usage", (name,)), ("processes", (name,)), ("remove", (name,))]

    def sleeper(self, cgroup: Cgroup) -> int:
        """A process in the container's cgroups."""
        if self.fake:
            write_pids(Path(cgroup.parents["fake"]), [_FAKE_PID])
            return _FAKE_PID
        process = subprocess.Popen(["sleep", "600"])
        self._sleepers.append(process)
        for folder in cgroup.parents.values():
            (Path(folder) / "cgroup.procs").write_text(str(process.pid))
        return process.pid

    def alive(self, pid: int) -> bool:
        """Whether a sleeper still sleeps."""
        return any(process.pid == pid and process.poll() is None for process in self._sleepers)

    def clear(self) -> None:
        for process in self._sleepers:
            process.kill()
            process.wait()
        if self.recipe.host.state_dir.exists():
            for _, owner in self.inventory():
                if owner:
                    self.limits.remove(owner)
            with contextlib.suppress(FileNotFoundError):
                self.limits.teardown()
