"""A command in a running container, by ``hostler-enter``, in a sub-cgroup of its own.

The runtime has no part in it: a container that was restored behind its back gets the same. With the sub-cgroup every process of
the command can be found whatever it forked, daemonised or renamed itself to: at the time limit they are all killed, a fork bomb
too. When the command ends in time, what it left running is moved to the container's cgroup and lives on. Version 1: only the
pids hierarchy has the sub-cgroup, so that all other limits hold as before.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostler.core.errors import Conflict, Invalid, Timeout
from hostler.core.specs import ExecResult, ExecSpec
from hostler.host import cgroups
from hostler.host.pidfd import Identity
from hostler.host.process import Result, run
from hostler_plugins.ns import enter
from hostler_plugins.ns.capture import Capture

_INIT_FAILED = b"hostler-init: "
_NOT_STARTED = (126, 127)
#: Bytes of a report that are read: it is one line.
_REPORT = 8192


@dataclass(frozen=True)
class Command:
    """Where and with what commands of one container are run: the ``program`` hostler-enter, the container's ``init`` and ``cgroups``,
    and the file of its seccomp filter."""

    program: Path
    container: str
    init: Identity
    cgroups: dict[str, Path]
    seccomp: Path

    def run(self, process: dict[str, Any], command: ExecSpec) -> ExecResult:
        """Run OCI ``process`` to its end or to the time limit of ``command``."""
        key = "pids" if "pids" in self.cgroups else cgroups.UNIFIED
        group = self.cgroups[key] / f"exec-{os.urandom(6).hex()}"
        try:
            group.mkdir()
            return self._run(process, group, command)
        except FileNotFoundError as error:
            raise Conflict(f"container {self.container} has just been removed", code="wrong_state") from error
        finally:
            _clear(group)

    def _run(self, process: dict[str, Any], group: Path, command: ExecSpec) -> ExecResult:
        options = enter.options(process, caller=os.getpid(), init=self.init, group=group, cgroups=self.cgroups, seccomp=self.seccomp)
        began = time.monotonic()
        with _report() as (reader, report), _words(process) as words:
            files = ["--report", str(report), "--words", str(words), str(len(process["args"]))]
            with Capture(command.output_limit, command.stdin.encode()) as capture:
                result = self._enter([str(self.program), *options, *files], (report, words), capture, command.timeout)
                if result is None:
                    cgroups.kill_all(group)
            said = _said(reader)
        if result is not None and result.returncode != 0:
            self._check_started(result.returncode, capture.stderr, said)
        return ExecResult(
            exit_code=137 if result is None else result.returncode,
            stdout=capture.stdout.decode("utf-8", "replace"),
            stderr=capture.stderr.decode("utf-8", "replace"),
            truncated=capture.truncated,
            timed_out=result is None,
            seconds=time.monotonic() - began,
        )

    def _enter(self, words: list[str], files: tuple[int, int], capture: Capture, timeout: float) -> Result | None:
        """None when the time was over."""
        try:
            return run(
                words, timeout=timeout, check=False, stdin=capture.into, stdout=capture.out, stderr=capture.err, pass_fds=files, streams=capture
            )
        except Timeout:
            return None

    def _check_started(self, status: int, stderr: bytes, report: str) -> None:
        """Tell a command that failed from one that was never begun."""
        if status in _NOT_STARTED and stderr.startswith(_INIT_FAILED):
            words = stderr.removeprefix(_INIT_FAILED).decode("utf-8", "replace").strip()
            raise Invalid(f"the command was not started: {words}", hint="look at its spelling, user and folder", code="not_started")
        failure = enter.failure(report, self.container)
        if failure is not None:
            raise failure


@contextlib.contextmanager
def _report() -> Iterator[tuple[int, int]]:
    """Both ends of the pipe by which hostler-enter says what went wrong."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def _said(reader: int) -> str:
    try:
        return os.read(reader, _REPORT).decode("utf-8", "replace")
    except BlockingIOError:
        return ""


@contextlib.contextmanager
def _words(process: dict[str, Any]) -> Iterator[int]:
    """Arguments and environment in a file that has no name: nobody on the server can read what secrets they hold."""
    handle = os.memfd_create("command", os.MFD_CLOEXEC)
    try:
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(enter.words(process))
        yield handle
    finally:
        os.close(handle)


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
