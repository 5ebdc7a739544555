"""Fake namespaces: a sandbox is a folder, its init a number in its fake cgroup. A few commands are understood by exec."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

from hostler.contracts.checkpoint import Landing, Shape
from hostler.contracts.driver import Host, Item, Probe
from hostler.contracts.limits import Cgroup
from hostler.contracts.ns import Ns, NsCapabilities, Sandbox
from hostler.contracts.storage import RootPlan
from hostler.core.errors import Conflict, HostFailure, Invalid, NotFound
from hostler.core.names import short_hash
from hostler.core.specs import ContainerSpec, ExecResult, ExecSpec
from hostler.testing.fakes.limits import read_memory, read_pids, write_memory, write_pids
from hostler.testing.fakes.shelf import Shelf, checked
from hostler.testing.faults import Faults

#: Pids that no Linux gives (its own end at 2²²).
_FIRST_PID = 1 << 23
#: The only hierarchy of fake cgroups.
HIERARCHY = "fake"
_DEADLY = {1, 2, 3, 9, 15}


class FakeNs(Ns):
    """Driver ``fake``. A process of ``args`` beginning with ``stubborn`` obeys SIGKILL alone; with ``exit`` ends with the next word."""

    name: ClassVar[str] = "fake"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.faults = Faults(host.state_dir)
        self._boxes = Shelf(self.folder / "sandboxes", "sandbox")
        self._folders = Shelf(host.state_dir / "containers", "folder")

    @property
    def capabilities(self) -> NsCapabilities:
        return NsCapabilities(user_namespace=True, seccomp=True, exec=True, freeze=True, checkpoint=True)

    def probe(self) -> Probe:
        return Probe(offers=["plain folders"])

    def inventory(self) -> list[Item]:
        alive = [name for name in self._boxes.names() if self._alive(self._boxes.read(name))]
        processes = [Item(kind="process", name=str(self._boxes.read(name)["pid"]), owner=name) for name in alive]
        return [*self._boxes.inventory(), *self._folders.inventory(), *processes]

    def teardown(self) -> None:
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def create(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Sandbox:
        self.faults.passing("ns.create")
        with self._boxes.alone(spec.id):
            seen = self.inspect(spec.id)
            if seen.state in ("created", "running", "frozen"):
                return seen
            self._end(spec.id)
            self._boxes.drop(spec.id)
            group = _group(cgroup)
            pid = fresh_pid(spec.id)
            record = _new_record("created", pid, group, spec)
            with self._boxes.made(spec.id) as folder:
                self._boxes.write(spec.id, record, folder)
                self.faults.passing("ns.create:made")
            try:
                write_memory(group, "")
                write_pids(group, [pid])
                self.faults.passing("ns.create:done")
            except Exception:
                self._end(spec.id)
                self._boxes.drop(spec.id)
                raise
            return self.inspect(spec.id)

    def start(self, container: str) -> None:
        self.faults.passing("ns.start")
        with self._boxes.alone(container):
            record = self._there(container)
            if record["state"] == "created":
                self._boxes.write(container, record | {"state": "running"})
            if record["args"][:1] == ["exit"]:
                self._end(container, int(record["args"][1]))

    def inspect(self, container: str) -> Sandbox:
        checked(container)
        record = self._boxes.read(container)
        if not record or record["state"] == "landed":
            return Sandbox(state="absent")
        if not self._alive(record):
            return Sandbox(state="exited", exit_code=record.get("exit_code"))
        return Sandbox(state=record["state"], pid=record["pid"], started_at=record["started_at"])

    def signal(self, container: str, signal: int) -> None:
        with self._boxes.alone(container):
            record = self._boxes.read(container)
            stubborn = record.get("args", [])[:1] == ["stubborn"]
            if signal == 9 or (signal in _DEADLY and record.get("state") == "running" and not stubborn):
                self._end(container, 128 + signal)

    def wait(self, container: str, timeout: float) -> Sandbox:
        deadline = time.monotonic() + timeout
        while (seen := self.inspect(container)).state not in ("absent", "exited") and time.monotonic() < deadline:
            time.sleep(0.005)
        return seen

    def exec(self, container: str, command: ExecSpec) -> ExecResult:
        self.faults.passing("ns.exec")
        if self.inspect(container).state != "running":
            raise Conflict(f"container {container} is not running", hint="start it first", code="wrong_state")
        began = time.monotonic()
        result = _run(command, Path(self._boxes.read(container)["cgroup"]))
        return result.model_copy(update={"seconds": time.monotonic() - began})

    def delete(self, container: str) -> None:
        self.faults.passing("ns.delete")
        with self._boxes.alone(container):
            self._end(container)
            self._boxes.drop(container)

    def forget(self, container: str) -> None:
        self.delete(container)
        with self._folders.alone(container):
            self._folders.drop(container)

    def freeze(self, container: str) -> None:
        with self._boxes.alone(container):
            if self.inspect(container).state not in ("running", "frozen"):
                raise Conflict(f"container {container} is not running", hint="start it first", code="wrong_state")
            self._boxes.write(container, self._boxes.read(container) | {"state": "frozen"})

    def thaw(self, container: str) -> None:
        with self._boxes.alone(container):
            record = self._boxes.read(container)
            if record.get("state") == "frozen":
                self._boxes.write(container, record | {"state": "running"})

    def shape(self, container: str) -> Shape:
        if self.inspect(container).state not in ("running", "frozen"):
            raise Conflict(f"container {container} is not running", hint="start it first", code="wrong_state")
        record = self._boxes.read(container)
        return Shape(container=container, pid=record["pid"], started_at=record["started_at"], cgroups={HIERARCHY: record["cgroup"]}, outside={})

    def land(self, spec: ContainerSpec, root: RootPlan, cgroup: Cgroup) -> Landing:
        self.faults.passing("ns.land")
        with self._boxes.alone(spec.id):
            state = self.inspect(spec.id).state
            if state in ("created", "running", "frozen"):
                raise Conflict(f"container {spec.id} is {state} on this server already", hint="stop it first", code="wrong_state")
            self._boxes.drop(spec.id)
            group = _group(cgroup)
            with self._boxes.made(spec.id) as folder:
                self._boxes.write(spec.id, _new_record("landed", None, group, spec), folder)
            self.faults.passing("ns.land:done")
            return Landing(container=spec.id, words=[str(group)], root=self._boxes.path(spec.id), outside={})

    def furnish(self, container: str, pid: int) -> None:
        self.faults.passing("ns.furnish")
        with self._boxes.alone(container):
            self._boxes.write(container, self._boxes.read(container) | {"furnished": pid})

    def adopt(self, container: str, pid: int) -> Sandbox:
        self.faults.passing("ns.adopt")
        with self._boxes.alone(container):
            record = self._boxes.read(container)
            if not self._alive(record | {"pid": pid}):
                raise Conflict(f"the restored init of container {container} has ended", hint="restore it again", code="wrong_state")
            self._boxes.write(container, record | {"state": "running", "pid": pid})
            return self.inspect(container)

    def _alive(self, record: dict[str, Any]) -> bool:
        return record.get("pid") in read_pids(self.folder / record["cgroup"]) if record else False

    def _there(self, container: str) -> dict[str, Any]:
        record = self._boxes.read(container)
        if not self._alive(record):
            raise NotFound(f"container {container} has no sandbox", hint="create it first", code="no_sandbox")
        return record

    def _end(self, container: str, code: int | None = None) -> None:
        record = self._boxes.read(container)
        if self._alive(record):
            group = self.folder / record["cgroup"]
            self._boxes.write(container, record | {"exit_code": code})
            write_pids(group, [pid for pid in read_pids(group) if pid != record["pid"]])


def fresh_pid(container: str) -> int:
    """A pid that no Linux gives, another each time."""
    return _FIRST_PID + int.from_bytes(short_hash(f"{container}{time.monotonic_ns()}", 4).encode()) % _FIRST_PID


def _group(cgroup: Cgroup) -> Path:
    group = Path(cgroup.parents[HIERARCHY])
    if not group.is_dir():
        raise HostFailure("the cgroup is gone", hint="create it first", code="no_cgroup")
    return group


def _new_record(state: str, pid: int | None, group: Path, spec: ContainerSpec) -> dict[str, Any]:
    started_at = time.monotonic_ns() // 10_000_000
    return {"state": state, "pid": pid, "started_at": started_at, "cgroup": str(group), "args": list(spec.process.args)}


def _run(command: ExecSpec, group: Path) -> ExecResult:
    program, *words = command.args
    match program.rsplit("/", 1)[-1]:
        case "true":
            return ExecResult(exit_code=0)
        case "false":
            return ExecResult(exit_code=1)
        case "echo":
            return _said(" ".join(words) + "\n", command.output_limit)
        case "cat":
            return _said(command.stdin, command.output_limit)
        case "remember":
            write_memory(group, " ".join(words))
            return ExecResult(exit_code=0)
        case "recall":
            return _said(read_memory(group) + "\n", command.output_limit)
        case "sleep":
            time.sleep(min(float(words[0]), command.timeout))
            late = float(words[0]) > command.timeout
            return ExecResult(exit_code=137 if late else 0, timed_out=late)
    raise Invalid(f"{program} cannot be started in a fake container", hint="it knows true, false, echo, cat, sleep, remember and recall", code="not_executable")


def _said(text: str, limit: int) -> ExecResult:
    kept = text.encode()[:limit].decode(errors="ignore")
    return ExecResult(exit_code=0, stdout=kept, truncated=kept != text)
