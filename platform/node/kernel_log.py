"""What the kernel says about memory kills: the names of the killed, which no counter tells. ``/dev/kmsg``."""

from __future__ import annotations

import os
import re
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path

_RECORD_BYTES = 8192
_KEPT = 8
# mem_cgroup_print_oom_context of the kernel. The name of a process may hold anything, so it ends at the last numbers.
_KILL = re.compile(r"oom_memcg=(?P<limit>[^,]+),task_memcg=[^,]+,task=(?P<name>.*),pid=(?P<pid>\d+),uid=\d+$")


@dataclass(frozen=True)
class Kill:
    """One process killed by a memory limit; ``cgroup`` is the one whose limit it was, below its hierarchy's mount."""

    cgroup: str
    name: str
    pid: int


def parse(record: str) -> Kill | None:
    """The kill that a record of /dev/kmsg tells of, if it does."""
    head = record.partition("\n")[0].partition(";")[2]
    match = _KILL.search(head) if head.startswith("oom-kill:") else None
    return Kill(match["limit"], match["name"], int(match["pid"])) if match else None


@dataclass
class KernelLog:
    """The kernel's log from now on. ``handle`` is None where it may not be read."""

    handle: int | None = None
    _kills: dict[str, deque[Kill]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_KEPT)))

    @classmethod
    def open(cls, path: Path = Path("/dev/kmsg")) -> KernelLog:
        """Open at the end; what was said before is not ours."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (PermissionError, FileNotFoundError):
            return cls(None)
        os.lseek(handle, 0, os.SEEK_END)
        return cls(handle)

    def read(self, group: str) -> bool:
        """Take up to 200 new records; keep kills in cgroups below one named ``group``. Whether there was one."""
        found = False
        for _ in range(200):
            try:
                record = os.read(self.handle, _RECORD_BYTES) if self.handle is not None else b""
            except BrokenPipeError:  # records were overwritten before we read them
                continue
            except BlockingIOError:
                return found
            kill = parse(record.decode("utf-8", "replace"))
            if kill is not None and f"/{group}/" in kill.cgroup:
                self._kills[kill.cgroup].append(kill)
                found = True
            if not record:
                return found
        return found

    def take(self, folder: str) -> list[Kill]:
        """The kills seen in the cgroup whose folder is ``folder``; they are given out once."""
        for cgroup in list(self._kills):
            if folder.endswith(cgroup):
                return list(self._kills.pop(cgroup))
        return []

    def close(self) -> None:
        """Let go of the log."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None
