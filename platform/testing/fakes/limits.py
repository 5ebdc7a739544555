"""Fake limits: a cgroup is a folder with the limits, what is said to be used, and the pids that a fake sandbox wrote into it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import ClassVar

from hostler.contracts.driver import Host, Item, Probe
from hostler.contracts.limits import Cgroup, LimitsCapabilities, LimitsDriver
from hostler.core.errors import Conflict, NotFound
from hostler.core.limits import Limits, Usage
from hostler.testing.fakes.shelf import Shelf, write_record
from hostler.testing.faults import Faults


class FakeLimits(LimitsDriver):
    """Driver ``fake``."""

    name: ClassVar[str] = "fake"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.faults = Faults(host.state_dir)
        self._groups = Shelf(self.folder / "groups", "cgroup")

    @property
    def capabilities(self) -> LimitsCapabilities:
        return LimitsCapabilities.model_validate(dict.fromkeys(LimitsCapabilities.model_fields, True))

    def probe(self) -> Probe:
        return Probe(offers=["plain folders"])

    def inventory(self) -> list[Item]:
        return self._groups.inventory()

    def teardown(self) -> None:
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        self.faults.passing("limits.create")
        with self._groups.alone(container):
            if container in self._groups:
                self._set(container, limits)
                self._groups.write(container, self._groups.read(container) | {"account": account, "account_weight": account_weight})
            else:
                with self._groups.made(container) as folder:
                    write_record(folder, {"limits": limits.model_dump(mode="json"), "usage": {}, "account": account, "account_weight": account_weight})
                    self.faults.passing("limits.create:done")
        return Cgroup(path=f"fake/{container}", parents={"fake": str(self._groups.path(container))})

    def apply(self, container: str, limits: Limits) -> None:
        self.faults.passing("limits.apply")
        with self._groups.alone(container):
            self._set(container, limits)
            self.faults.passing("limits.apply:done")

    def _set(self, container: str, limits: Limits) -> None:
        used = self.usage(container)
        if limits.memory is not None and used.memory > limits.memory:
            raise Conflict(f"{used.memory} bytes of memory are in use", hint="give it more, or end processes first", code="below_use")
        self._groups.write(container, self._groups.read(container) | {"limits": limits.model_dump(mode="json")})

    def usage(self, container: str) -> Usage:
        self._there(container)
        return Usage.model_validate(self._groups.read(container)["usage"] | {"pids": len(self.processes(container))})

    def oom_kills(self, container: str) -> int:
        return self.usage(container).oom_kills

    def processes(self, container: str) -> list[int]:
        return read_pids(self._groups.path(container))

    def remove(self, container: str) -> None:
        self.faults.passing("limits.remove")
        with self._groups.alone(container):
            self._groups.drop(container)

    def limits_of(self, container: str) -> Limits:
        """What holds now."""
        self._there(container)
        return Limits.model_validate(self._groups.read(container)["limits"])

    def account_of(self, container: str) -> tuple[str, int]:
        """Account and its weight, as they were last given."""
        self._there(container)
        record = self._groups.read(container)
        return record["account"], record["account_weight"]

    def use(self, container: str, usage: Usage) -> None:
        """Say what the container uses."""
        with self._groups.alone(container):
            self._groups.write(container, self._groups.read(container) | {"usage": usage.model_dump(mode="json")})

    def _there(self, container: str) -> None:
        if container not in self._groups:
            raise NotFound(f"container {container} has no cgroup here", hint="create it first", code="no_cgroup")


def read_pids(cgroup: Path) -> list[int]:
    """The pids in a fake cgroup; none without it."""
    try:
        found: list[int] = json.loads((cgroup / "procs").read_text())
    except FileNotFoundError:
        return []
    return found


def write_pids(cgroup: Path, pids: list[int]) -> None:
    """Set the pids of a fake cgroup, which must exist."""
    temporary = cgroup / f".procs-{threading.get_native_id()}"
    temporary.write_text(json.dumps(pids))
    os.replace(temporary, cgroup / "procs")


def read_memory(cgroup: Path) -> str:
    """What the processes in a fake cgroup remember; empty without it."""
    try:
        return (cgroup / "memory").read_text()
    except FileNotFoundError:
        return ""


def write_memory(cgroup: Path, text: str) -> None:
    """Have the processes of a fake cgroup, which must exist, remember something."""
    (cgroup / "memory").write_text(text)
