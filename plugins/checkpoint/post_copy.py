"""Post-copy: a container is let run at its new place before its memory is there; pages come when they are touched, the rest meanwhile.

``criu dump --lazy-pages`` writes all but the memory that can wait, keeps that in pipes, and serves it over a socket; ``criu lazy-pages`` takes
it at the other end and fills it in with userfaultfd(2). Both outlive the worker: they are told their socket, the other end of
which is a carrier's (:mod:`hostler.node.mobility.carrier`).

While CRIU serves, the source's processes stand in ptrace. They are ordered into the freezer besides, so that none runs should CRIU be
killed. When the socket closes before the end, CRIU lets them go: into the freezer, from where the caller thaws them.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hostler.core.errors import HostlerError
from hostler.host import cgroups, freezer
from hostler.host.pidfd import Identity
from hostler.host.process import Result

#: Seconds that the whole memory may take to follow.
TIMEOUT = 6 * 3600.0
_READY = 60.0
_DAEMON_READY = 10.0
_GRAIN = 0.0005

#: Runs CRIU's ``words`` with the descriptors ``fds`` open in it, its pid in a file; to its end.
Run = Callable[[list[str], tuple[int, ...], Path], Result]


class Serving:
    """CRIU in a thread of its own, until it ends."""

    def __init__(self, run: Run, command: list[str], fds: tuple[int, ...], pid_file: Path, failed: Callable[[], None] | None = None) -> None:
        self._ended: list[Result | HostlerError] = []
        self._failed = failed
        self._thread = threading.Thread(target=self._body, args=(run, command, fds, pid_file), name="criu-memory", daemon=True)
        self._thread.start()

    def _body(self, run: Run, command: list[str], fds: tuple[int, ...], pid_file: Path) -> None:
        try:
            self._ended.append(run(command, fds, pid_file))
        except HostlerError as error:
            self._ended.append(error)
        end = self._ended[0]
        if self._failed is not None and (isinstance(end, HostlerError) or end.returncode != 0):
            self._failed()

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return bool(self._ended)


def dump(run: Run, command: list[str], memory: int, images: Path, folders: Mapping[str, str]) -> bool:
    """Dump lazily and serve memory on the socket ``memory``; True once it serves, False when CRIU ended instead.

    ``command``: the words of an ordinary dump. The container's cgroup is ordered frozen again, which CRIU had undone.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        words = [*command, "--lazy-pages", "--ps-socket", str(memory), "--status-fd", str(writing)]
        serving = Serving(run, words, (memory, writing), pid_file(images))
        os.set_blocking(reading, False)
        ready = _until_ready(reading, serving)
    finally:
        os.close(reading)
        os.close(writing)
    order_frozen(folders)
    return ready


def _until_ready(reading: int, serving: Serving) -> bool:
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    deadline = time.monotonic() + _READY
    while time.monotonic() < deadline and not serving.ended:
        if poll.poll(5):
            return bool(os.read(reading, 1)) or not serving.ended
    return False


def order_frozen(folders: Mapping[str, str]) -> None:
    """Have the freezer take whatever stops being traced; it need not stand yet."""
    if freezer.FREEZER in folders:
        cgroups.write(Path(folders[freezer.FREEZER]), "freezer.state", "FROZEN")
    elif cgroups.UNIFIED in folders:
        cgroups.write(Path(folders[cgroups.UNIFIED]), "cgroup.freeze", "1")


def begin_filling(run: Run, images: Path, work: Path, memory: int, end: Callable[[], None]) -> bool:
    """Start the daemon that fills memory in from the socket ``memory``; whether it waits for the restore now. Should it end before
    all is there, the kernel would give the container zeros instead: then it is ``end``-ed at once."""

    def lost() -> None:
        end()
        lost_file(images).touch()

    command = ["lazy-pages", "--images-dir", str(images), "--work-dir", str(work), "--log-file", "lazy.log", "-v2"]
    serving = Serving(run, [*command, "--page-server", "--ps-socket", str(memory)], (memory,), pid_file(images), lost)
    deadline = time.monotonic() + _DAEMON_READY
    while not (work / "lazy-pages.socket").exists():
        if serving.ended or time.monotonic() > deadline:
            return False
        time.sleep(_GRAIN)
    return True


def pid_file(images: Path) -> Path:
    """Holds the pid of the CRIU that serves or fills."""
    return images.with_name(f"{images.name}.memory.pid")


def lost_file(images: Path) -> Path:
    """Exists when memory that was to follow did not all come."""
    return images.with_name(f"{images.name}.memory.lost")


def under_way(images: Path) -> Identity | None:
    """The CRIU that serves or fills memory over these images; None when it has ended, or there was none."""
    try:
        found = Identity.of(int(pid_file(images).read_text()))
        words = Path(f"/proc/{found.pid}/cmdline").read_bytes().split(b"\0") if found else []
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return found if os.fsencode(images) in words else None
