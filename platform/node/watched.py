"""One container as the watch sees it: its FIFOs, its init, its log, and what has been told of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hostler.contracts.driver import Host
from hostler.core.messages import ContainerEvent, now
from hostler.core.units import KIB, MIB, format_size
from hostler.host import cgroups, guest, pidfd
from hostler.node.kernel_log import KernelLog, Kill
from hostler.node.logs import LogStore

log = structlog.get_logger()

#: Bytes of output a second that are kept of one container; one that writes more waits, as with a slow terminal.
LOG_RATE = 1 * MIB
#: What one line costs beyond its bytes, so that a flood of empty lines is no cheaper to us.
_LINE_COST = 100
#: Bytes taken at once from one FIFO, so that none starves the others.
_CHUNK = 16 * KIB
_PIPE_MOST = 1 * MIB


@dataclass
class Bucket:
    """Bytes that may still be taken; it fills with :data:`LOG_RATE` a second and holds one second's worth."""

    level: float = LOG_RATE
    at: float = field(default_factory=time.monotonic)

    def spend(self, cost: float) -> float:
        """Take ``cost``; returns the seconds to wait before more may be taken."""
        moment = time.monotonic()
        self.level = min(LOG_RATE, self.level + (moment - self.at) * LOG_RATE) - cost
        self.at = moment
        return max(0.0, -self.level / LOG_RATE)


class Watched:
    """State of one container. ``streams`` maps file descriptors of its FIFOs to ``out``, ``err`` and ``status``."""

    def __init__(self, host: Host, container: str) -> None:
        self.host = host
        self.container = container
        self.log = LogStore(guest.log_dir(host, container))
        self.streams: dict[int, str] = {}
        self.pidfd: int | None = None
        self.record: guest.InitRecord | None = None
        self.remind_at: float | None = None
        """When to tell again how init ended, by the monotonic clock; None: never."""
        self.remind_after = 0.0
        self._guest_inode = 0
        self._bucket = Bucket()
        self._status = b""

    # -- keeping up with what is there

    @property
    def folder(self) -> Path:
        """The container's folder."""
        return self.host.container_dir(self.container)

    def guest_changed(self) -> bool:
        """Whether the FIFOs are not those that are open."""
        return _inode(guest.guest_dir(self.host, self.container)) not in (0, self._guest_inode)

    def open_streams(self) -> None:
        """Open the FIFOs that are there now."""
        folder = guest.guest_dir(self.host, self.container)
        self._guest_inode = _inode(folder)
        try:
            for name in (guest.OUT, guest.ERR, guest.STATUS):
                # for writing too: the pipe and what is in it then lives as long as we look
                handle = os.open(folder / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self.streams[handle] = name
        except FileNotFoundError:
            self.close_streams()

    def close_streams(self) -> None:
        """Close the FIFOs."""
        for handle in self.streams:
            os.close(handle)
        self.streams.clear()
        self._guest_inode = 0

    def close(self) -> None:
        """Let go of everything."""
        self.close_streams()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        self._guard(self.log.close)

    def find_init(self) -> guest.InitRecord | None:
        """The init written down now if it is another than before, remembered as ours and opened if it lives."""
        try:
            record = guest.read_init(self.host, self.container)
        except ValueError as error:
            log.warning("unreadable init record", container=self.container, error=str(error))
            return None
        if record is None or (self.record is not None and record.identity == self.record.identity):
            return None
        if self.pidfd is not None:
            os.close(self.pidfd)
        self.record = record
        self._status = b""
        self.pidfd = pidfd.open_pidfd(record.identity)
        return record

    # -- output

    def take(self, handle: int, chunk: int = _CHUNK) -> float | None:
        """Read once from a FIFO. Returns the seconds for which to leave it alone, None when it was empty."""
        try:
            data = os.read(handle, chunk)
        except BlockingIOError:
            return None
        stream = self.streams[handle]
        if stream == guest.STATUS:
            self._status = (self._status + data)[-64:]
            return 0.0
        lines = 0

        def append() -> None:
            nonlocal lines
            lines = self.log.append(stream, data)

        self._guard(append)
        return self._bucket.spend(len(data) + lines * _LINE_COST)

    def drain(self) -> None:
        """Take all that is in the FIFOs of an ended container; no more than pipes can hold, should somebody still write."""
        for handle in self.streams:
            for _ in range(_PIPE_MOST // _CHUNK):
                if self.take(handle) is None:
                    break
        self._guard(self.log.flush)

    def flush(self, older_than: float) -> None:
        """Write out prompts and other lines without an end."""
        self._guard(lambda: self.log.flush(older_than))

    def _guard(self, act: object) -> None:
        """A full disk costs lines of this container, and nothing of the others."""
        assert callable(act)
        try:
            act()
        except OSError as error:
            log.warning("output of a container is lost", container=self.container, error=str(error))

    # -- news

    def exit_record(self) -> guest.ExitRecord:
        """How init ended: by its own word, else by the kernel's, else unknown."""
        assert self.record is not None
        code = signal = None
        words = self._status.decode("ascii", "replace").split()
        if len(words) >= 2 and words[-2] in ("exit", "signal") and words[-1].isdigit():
            number = int(words[-1]) & 0xFF
            code, signal = (number, None) if words[-2] == "exit" else (None, number)
        elif self.pidfd is not None:
            status = pidfd.exit_status(self.pidfd)
            if status is not None and os.WIFSIGNALED(status):
                signal = os.WTERMSIG(status)
            elif status is not None:
                code = os.WEXITSTATUS(status)
        return guest.ExitRecord(
            pid=self.record.pid,
            started_at=self.record.started_at,
            code=code,
            signal=signal,
            expected=guest.exit_expected(self.host, self.container),
            at=now(),
        )

    def new_kills(self) -> int:
        """Processes killed by the memory limit since last told; 0 without a cgroup."""
        if self.record is None or not self.record.cgroups:
            return 0
        try:
            count = cgroups.oom_kills(self.record.cgroups)
        except OSError:  # ENOENT or ENODEV: removed meanwhile
            return 0
        told = self.told_kills()
        if count < told:  # a new cgroup counts from 0
            self.tell_kills(count)
        return max(0, count - told)

    def tell_kills(self, count: int) -> None:
        """Remember that ``count`` kills of this cgroup have been told."""
        try:
            guest.write_whole(self.folder / "oom.json", json.dumps({"told": count}))
        except FileNotFoundError:  # the container has just been forgotten
            return

    def told_kills(self) -> int:
        try:
            return int(json.loads((self.folder / "oom.json").read_text())["told"])
        except FileNotFoundError:
            return 0

    def kill_event(self, count: int, kernel: KernelLog) -> ContainerEvent:
        """The event of ``count`` kills, with names where the kernel's log has them."""
        assert self.record is not None
        folder = self.record.cgroups.get(cgroups.MEMORY) or self.record.cgroups.get(cgroups.UNIFIED, "")
        kills = kernel.take(folder)
        try:
            limit = cgroups.memory_limit(self.record.cgroups)
        except OSError:
            limit = None
        return ContainerEvent(
            node=self.host.node,
            container=self.container,
            kind="oom",
            message=kill_message(count, limit, kills),
            details={
                "count": count,
                "limit": limit,
                "killed": [{"name": kill.name, "pid": kill.pid} for kill in kills],
                "started_at": self.record.started_at,
            },
        )

    def exit_event(self, record: guest.ExitRecord) -> ContainerEvent:
        """The event of an exit. ``pid`` and ``started_at`` tell whether it was heard before."""
        return ContainerEvent(
            node=self.host.node,
            container=self.container,
            kind="exited",
            message=exit_message(record),
            at=record.at,
            details=record.model_dump(mode="json", include={"pid", "started_at", "code", "signal", "expected"}),
        )


def kill_message(count: int, limit: int | None, kills: list[Kill]) -> str:
    """Such as: the memory limit of 64M killed process 123 (stress)."""
    subject = "the memory limit" if limit is None else f"the memory limit of {format_size(limit)}"
    if not kills:
        return f"{subject} killed {count} process{'es' if count != 1 else ''}"
    named = ", ".join(f"{kill.pid} ({kill.name})" for kill in kills)
    more = f" and {count - len(kills)} more" if count > len(kills) else ""
    return f"{subject} killed process{'es' if len(kills) > 1 else ''} {named}{more}"


def exit_message(record: guest.ExitRecord) -> str:
    """In words how a container ended."""
    if record.expected:
        return "the platform stopped it"
    if record.signal is not None:
        return f"its first process was killed by signal {record.signal}"
    if record.code is not None:
        return f"its first process ended with status {record.code}"
    return "its first process ended; how could not be seen"


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
