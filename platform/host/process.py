"""The one door to other programs. Nothing else in Hostler starts a process (Celery and supervisord aside)."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import structlog

from hostler.core.errors import HostFailure, Timeout

log = structlog.get_logger()

#: Kept of a program's error output in a message to a person.
_TAIL = 600
_SAFE_ENV = ("PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "TERM")


@dataclass(frozen=True)
class Result:
    """A finished program. ``seconds`` is wall time."""

    command: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """The end of standard error as one line."""
        return " ".join(self.stderr.decode("utf-8", "replace").split())[-_TAIL:]


class Streams(Protocol):
    """A program's pipes that must be served while it runs, as it would wait for us otherwise."""

    def awaited(self) -> Mapping[int, int]:
        """File descriptors and the events of ``poll(2)`` at which they are to be served."""

    def serve(self, handle: int) -> None:
        """Do what can be done with one of them without waiting."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs see of our environment: a short list, so that no secret of ours reaches them."""
    kept = {name: os.environ[name] for name in _SAFE_ENV if name in os.environ}
    kept.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return kept | dict(extra or {})


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = 30,
    check: bool = True,
    stdin: bytes | IO[bytes] | int | None = None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    streams: Streams | None = None,
) -> Result:
    """Run a program to its end.

    ``timeout`` is in seconds; after it the program's whole process group is killed and :class:`Timeout`
    raised. With ``check`` an exit status other than 0 raises :class:`HostFailure` holding the end of its
    error output. Output is captured unless ``stdout`` or ``stderr`` say where it goes; where all three say so, ``streams`` are
    served until the program has ended.
    """
    words = tuple(str(word) for word in command)
    began = time.monotonic()
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if isinstance(stdin, bytes) else subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE if stderr is None else stderr,
            env=environment(env),
            cwd=cwd,
            pass_fds=pass_fds,
            process_group=0,
        )
    except OSError as error:
        raise HostFailure(
            f"cannot start {words[0]}: {error.strerror}",
            hint="run `hostler doctor` on this server: it lists what is missing",
            code="program_missing" if isinstance(error, FileNotFoundError) else "program_failed",
        ) from error
    out, err = _communicate(child, words, stdin if isinstance(stdin, bytes) else None, timeout, streams)
    result = Result(words, child.returncode, out, err, time.monotonic() - began)
    log.debug("ran", command=shlex.join(words), status=result.returncode, ms=round(result.seconds * 1000, 1))
    if check and result.returncode != 0:
        raise HostFailure(
            f"{words[0]} failed with status {result.returncode}: {result.error_text or 'no message'}",
            hint=f"the command was: {shlex.join(words)[:400]}",
            code="program_failed",
        )
    return result


def _communicate(
    child: subprocess.Popen[bytes], words: tuple[str, ...], stdin: bytes | None, timeout: float, streams: Streams | None
) -> tuple[bytes, bytes]:
    try:
        if child.stdin is None and child.stdout is None and child.stderr is None:
            # Popen.wait sleeps in doubling steps: what takes 35 ms would be seen to end after 63.
            _wait(child.pid, timeout, words, streams)
        out, err = child.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(child.pid)
        child.communicate()
        raise Timeout(
            f"{words[0]} did not end within {timeout:g} s and was killed",
            hint=f"the command was: {shlex.join(words)[:400]}",
        ) from None
    except BaseException:
        kill_group(child.pid)
        child.wait()
        raise
    return out or b"", err or b""


def _wait(pid: int, timeout: float, words: tuple[str, ...], streams: Streams | None) -> None:
    """Wait for a child to end, to be reaped by the caller. Raises :class:`subprocess.TimeoutExpired`."""
    deadline = time.monotonic() + timeout
    handle = os.pidfd_open(pid)
    try:
        while True:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            for one, events in (streams.awaited() if streams else {}).items():
                poll.register(one, events)
            ready = [one for one, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
            if handle in ready:
                return
            if streams is None or time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(words, timeout)
            for one in ready:
                streams.serve(one)
    finally:
        os.close(handle)


def kill_group(pid: int) -> None:
    """SIGKILL a process group that we made; one that is gone is fine."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
