"""What the two versions' drivers share: a limit is a list of writes, done whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostler.core.errors import Conflict, HostFailure, HostlerError, Invalid
from hostler.core.limits import IoRate
from hostler.core.units import format_size
from hostler.host import cgroups

#: Length of the interval that a CPU cap is counted in, in microseconds (the kernel's default).
CPU_PERIOD_US = 100_000
#: The kernel takes no smaller quota.
CPU_QUOTA_LEAST_US = 1000
#: Major and minor number of a block device.
Device = tuple[int, int]


@dataclass(frozen=True)
class Write:
    """``value`` to be written to ``file`` of hierarchy ``key``. An ``optional`` one is left out where the file is missing."""

    key: str
    file: str
    value: str
    optional: bool = False


def cpu_quota(cpu: float | None) -> int | None:
    """Microseconds of CPU time in each period; None without a cap."""
    return None if cpu is None else max(CPU_QUOTA_LEAST_US, round(cpu * CPU_PERIOD_US))


def rates(io: IoRate) -> dict[str, int | None]:
    """The ceilings by the names that version 2 gives them."""
    return {"rbps": io.read_bps, "wbps": io.write_bps, "riops": io.read_iops, "wiops": io.write_iops}


def apply_all(
    folders: Mapping[str, Path],
    writes: Sequence[Write],
    former: Callable[[Path, Write], str],
    reclaim: Callable[[Path], None],
) -> None:
    """Do ``writes`` in order. When one is refused those before it are undone, last first, and a typed error raised.

    ``former`` reads the value that a write is about to replace, in the form in which it can be written back.
    ``reclaim`` is called with the cgroup before a memory limit that the kernel found too low is tried a second time.
    """
    done: list[tuple[Path, str, str]] = []
    for write in writes:
        folder = folders[write.key]
        if write.optional and not (folder / write.file).exists():
            continue
        value = former(folder, write)
        try:
            _write(folder, write, reclaim)
        except OSError as error:
            reason = explain(folder, write, error)
            for where, file, back in reversed(done):
                cgroups.write(where, file, back)
            raise reason from error
        done.append((folder, write.file, value))


def _write(folder: Path, write: Write, reclaim: Callable[[Path], None]) -> None:
    try:
        cgroups.write(folder, write.file, write.value)
    except OSError as error:
        if error.errno != errno.EBUSY or not write.file.startswith("memory."):
            raise
        reclaim(folder)
        cgroups.write(folder, write.file, write.value)


def explain(folder: Path, write: Write, error: OSError) -> HostlerError:
    """The kernel's errno as an error that says what to do."""
    if write.file.startswith("cpuset.") and error.errno in (errno.EINVAL, errno.EACCES, errno.ERANGE, errno.ENOSPC):
        have = cgroups.read(folder.parent, "cpuset.cpus") or cgroups.read(folder.parent, "cpuset.cpus.effective")
        return Invalid(f"processors {write.value} are not all on this server", hint=f"it has {have}")
    if write.file.startswith("memory.") and error.errno == errno.EBUSY:
        return Conflict(
            f"more than {format_size(int(write.value))} of memory is in use and cannot be reclaimed",
            hint="stop something inside, or choose a higher limit", code="memory_in_use",
        )
    return HostFailure(
        f"the kernel refused {write.value!r} for {write.file}: {error.strerror}",
        hint=f"the cgroup is {folder}", code="limit_refused",
    )
