"""The command line of ``hostler-enter``, and what it reports. Pure: from an OCI process by value.

What the program does is described in ``platform/host/native/enter.c``.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostler.core.errors import Conflict, HostFailure, HostlerError, Invalid
from hostler.host.freezer import FREEZER
from hostler.host.pidfd import Identity

# fmt: off
#: In the order of their numbers, from 0 (``linux/capability.h``).
_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
# fmt: on
#: Errors of the report: no such process, arguments too long, no room for one more.
_ESRCH, _E2BIG, _FULL = 3, 7, (11, 12)


def options(
    process: dict[str, Any], *, caller: int, init: Identity, group: Path, cgroups: Mapping[str, Path], seccomp: Path
) -> list[str]:
    """All options but ``--report`` and ``--words``, which name open files.

    ``process`` is an OCI process whose capability sets are one and the same; ``group`` the command's own cgroup, a child of one of the
    container's ``cgroups``.
    """
    words = ["--caller", str(caller), "--init", str(init.pid), str(init.started_at), "--group", str(group)]
    for key in sorted(cgroups, key=lambda key: key == FREEZER):  # what is frozen can join nothing more
        folder = cgroups[key]
        words += ["--join", str(group if folder == group.parent else folder)]
    words += ["--caps", f"{_mask(process['capabilities']):x}", "--oom", str(process["oomScoreAdj"]), "--seccomp", str(seccomp)]
    for limit in process["rlimits"]:
        words += ["--rlimit", str(getattr(resource, limit["type"])), str(limit["soft"]), str(limit["hard"])]
    return words


def words(process: dict[str, Any]) -> bytes:
    """The file of ``--words``: arguments, then environment."""
    return b"".join(word.encode() + b"\0" for word in (*process["args"], *process["env"]))


def failure(report: str, container: str) -> HostlerError | None:
    """What a report says: why the command was not begun; None when it was."""
    if not report:
        return None
    number, _, said = report.splitlines()[0].partition(" ")
    why = int(number) if number.isdigit() else 0
    if why == _E2BIG:
        return Invalid("the command's arguments and environment are too long", hint="give what it needs by its standard input", code="not_started")
    if why == _ESRCH:
        return Conflict(f"container {container} has just stopped", hint="start it first", code="wrong_state")
    hint = "the container's processes or memory limit may be used up" if why in _FULL else "run `hostler doctor` on this server: it lists what is missing"
    return HostFailure(f"the command could not be begun: {said or report}", code="runtime_failed", hint=hint)


def _mask(capabilities: dict[str, list[str]]) -> int:
    sets = {frozenset(names) for names in capabilities.values()}
    if len(sets) != 1 or not capabilities.keys() <= {"bounding", "effective", "permitted"}:
        raise HostFailure("the container's capability sets differ", code="runtime_failed", hint="recreate the container")
    return sum(1 << _CAPABILITIES.index(name) for name in next(iter(sets)))
