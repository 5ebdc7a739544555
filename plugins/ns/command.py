"""A command in a running container, by the runtime, in a sub-cgroup of its own.

With the sub-cgroup every process of the command can be found whatever it forked, daemonised or renamed itself to: at the time limit
they are all killed, a fork bomb too. When the command ends in time, what it left running is moved to the container's cgroup
and lives on. Version 1: only the pids hierarchy has the sub-cgroup, so that all other limits hold as before.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostler.core.errors import Conflict, HostFailure, Invalid, Timeout
from hostler.core.specs import ExecResult, ExecSpec
from hostler.host import cgroups
from hostler.host.process import Result, run
from hostler_plugins.ns.capture import Capture

_INIT_FAILED = b"hostler-init: "
_NOT_STARTED = (126, 127)
#: Words of runc and crun for a container that has ended meanwhile.
_GONE = ("stopped container", "does not exist", "is not running", "No such process")


@dataclass(frozen=True)
class Exec:
    """How a runtime is called: the ``words`` up to its global options, and the ``options`` of its verb exec."""

    words: list[str]
    options: list[str]


@dataclass(frozen=True)
class Command:
    """Where and with what commands of one container are run. ``folder`` takes short-lived files.

    ``words`` gives the call that runs something in a sub-cgroup.
    """

    words: Callable[[Path], Exec]
    container: str
    folder: Path
    cgroups: dict[str, Path]

    def run(self, process: dict[str, Any], command: ExecSpec) -> ExecResult:
        """Run OCI ``process`` to its end or to the time limit of ``command``."""
        name = f"exec-{os.urandom(6).hex()}"
        key = "pids" if "pids" in self.cgroups else cgroups.UNIFIED
        group = self.cgroups[key] / name
        files = self.folder / name
        try:
            files.mkdir(mode=0o700)
            group.mkdir()
            (files / "process.json").write_text(json.dumps(process))
            return self._run(files, group, command)
        except FileNotFoundError as error:
            raise Conflict(f"container {self.container} has just been removed", code="wrong_state") from error
        finally:
            _clear(group)
            shutil.rmtree(files, ignore_errors=True)

    def _run(self, files: Path, group: Path, command: ExecSpec) -> ExecResult:
        call = self.words(group)
        words = [*call.words, "--log", str(files / "log"), "--log-format", "json", "exec", *call.options]
        words += ["--process", str(files / "process.json"), self.container]
        began = time.monotonic()
        result: Result | None = None
        with Capture(command.output_limit) as capture:
            try:
                result = run(
                    words, timeout=command.timeout, check=False, stdin=command.stdin.encode() or None,
                    stdout=capture.out, stderr=capture.err,
                )
            except Timeout:
                cgroups.kill_all(group)
        if result is not None and result.returncode != 0:
            self._check_started(result.returncode, capture.stderr, files / "log")
        return ExecResult(
            exit_code=137 if result is None else result.returncode,
            stdout=capture.stdout.decode("utf-8", "replace"),
            stderr=capture.stderr.decode("utf-8", "replace"),
            truncated=capture.truncated,
            timed_out=result is None,
            seconds=time.monotonic() - began,
        )

    def _check_started(self, status: int, stderr: bytes, log: Path) -> None:
        """Tell a command that failed from one that was never begun."""
        if status in _NOT_STARTED and stderr.startswith(_INIT_FAILED):
            words = stderr.removeprefix(_INIT_FAILED).decode("utf-8", "replace").strip()
            raise Invalid(f"the command was not started: {words}", hint="look at its spelling, user and folder", code="not_started")
        words = messages(log)
        if not words:
            return
        if any(end in words for end in _GONE):
            raise Conflict(f"container {self.container} has just stopped", hint="start it first", code="wrong_state")
        raise HostFailure(f"the runtime could not run the command: {words[-400:]}", code="runtime_failed",
                          hint="the container's processes or memory limit may be used up")


def messages(log: Path) -> str:
    """The errors in a runtime's log of one JSON object a line; empty without any."""
    found = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        entry = json.loads(line) if line.startswith("{") else {"level": "error", "msg": line}
        if entry.get("level") in ("error", "fatal"):
            found.append(str(entry.get("msg", "")))
    return " ".join(found)


def _clear(group: Path) -> None:
    """Move what still runs up to the container's cgroup, and remove the sub-cgroup."""
    for attempt in range(100):
        pids = cgroups.processes(group)
        if not pids:
            break
        if attempt == 10:  # it forks faster than we move
            _hold(group)
        for pid in pids:
            cgroups.move(pid, group.parent)
    cgroups.remove(group)


def _hold(group: Path) -> None:
    """Keep a cgroup from forking: no more pids in version 1, frozen in version 2."""
    for file, value in (("pids.max", "0"), ("cgroup.freeze", "1")):
        if (group / file).exists():
            cgroups.write(group, file, value)
            return
