"""What it means when a runtime fails to make a container: its own words, and what the kernel has counted meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

from hostler.contracts.limits import Cgroup
from hostler.core.errors import HostFailure, Invalid
from hostler.core.specs import ContainerSpec
from hostler.core.units import format_size
from hostler.host import cgroups

#: Characters of a runtime's last words that are told.
_WORDS = 600
#: What runtimes say, before all else, when they may make no further process or thread: Go's own words, and those of EAGAIN.
_NO_FORK = ("failed to create new OS thread", "Resource temporarily unavailable", "resource temporarily unavailable")


def last_words(folder: Path) -> str:
    """The end of what the runtime said."""
    return words(folder)[-_WORDS:]


def words(folder: Path) -> str:
    """What the runtime said, wherever it said it."""
    said = " ".join((folder / "stderr").read_text(errors="replace").split()) if (folder / "stderr").exists() else ""
    return said or _messages(folder / "log")


def _messages(log: Path) -> str:
    """The errors in a runtime's log of one JSON object a line; empty without any."""
    found = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        entry = json.loads(line) if line.startswith("{") else {"level": "error", "msg": line}
        if entry.get("level") in ("error", "fatal"):
            found.append(str(entry.get("msg", "")))
    return " ".join(found)


def is_in_the_way(error: BaseException) -> bool:
    """Whether the runtime of a worker that was killed in the middle wrote its state just after it was cleaned away: it is dying too."""
    return isinstance(error, HostFailure) and error.stable_code == "runtime_failed" and "exists" in error.message


def killed_for_memory(cgroup: Cgroup) -> int:
    """How many processes were. Runtimes that fail remove the cgroup and its count; in version 2 the folder around it has counted too,
    in version 1 the runtime's own words must do."""
    folders = dict(cgroup.parents)
    if cgroups.MEMORY not in folders:
        if cgroups.UNIFIED not in folders:
            return 0
        folders = {cgroups.UNIFIED: str(Path(folders[cgroups.UNIFIED]).parent)}
    try:
        return cgroups.oom_kills(folders)
    except FileNotFoundError:
        return 0


def of_creation(spec: ContainerSpec, said: str, *, killed: bool) -> HostFailure | Invalid:
    """What a runtime's failure means. ``killed``: a process was, for memory, meanwhile."""
    if spec.limits.memory is not None and (killed or "OOM-killed" in said):
        return Invalid(
            f"a memory limit of {format_size(spec.limits.memory)} is too small for a container to start",
            hint="give it more memory: 16M is enough for a shell", code="memory_too_small",
        )
    if spec.limits.pids is not None and any(sign in said for sign in _NO_FORK):
        return Invalid(
            f"a limit of {spec.limits.pids} processes is too small for a container to start",
            hint="allow it more processes: 16 are enough for a shell", code="pids_too_few",
        )
    return HostFailure(f"the container's sandbox could not be made: {said[-_WORDS:] or 'no message'}", code="runtime_failed",
                       hint="run `hostler doctor` on this server: it lists what is missing")
