"""What a container uses against what it may, and why it was slow or something in it was killed, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hostler.core.api import UsageOut
from hostler.core.limits import Limits
from hostler.core.units import format_size

#: Percent of the last ten seconds from which waiting is worth a sentence.
_MUCH_WAITING = 10.0
#: Share of a disk's or memory's limit from which there is little left.
_NEARLY_ALL = 0.95


def used_in_words(limits: Limits, used: UsageOut) -> list[tuple[str, object]]:
    """A title and what is to be said of it; of a container that does not run only the disk is known."""
    disk = _of_bytes(used.disk, limits.disk)
    if not used.running:
        return [("disk", disk)]
    swap = _of_bytes(used.swap, limits.swap if limits.memory else None)
    cap = f"cap {limits.cpu:g}" if limits.cpu else "no cap"
    return [
        ("memory", _marks(_of_bytes(used.memory, limits.memory), format_size(used.memory_peak), used.memory_limit_hits)),
        ("killed for memory", used.oom_kills),
        ("swap", _marks(swap, format_size(used.swap_peak) if used.swap_peak else "", used.swap_limit_hits)),
        ("cpu", f"{_seconds(used.cpu_ns)} used, {cap}, held back {_times(used.cpu_throttled_periods)} for {_seconds(used.cpu_throttled_ns)} in all"),
        ("pids", _marks(_of(str(used.pids), None if limits.pids is None else str(limits.pids)), str(used.pids_peak) if used.pids_peak else "", used.pids_limit_hits)),
        *_waited(used),
        ("disk", disk),
        ("disk i/o", f"{format_size(used.io_read_bytes)} read, {format_size(used.io_write_bytes)} written"),
        ("network", f"{format_size(used.net_in_bytes)} in, {format_size(used.net_out_bytes)} out"),
    ]


def reasons(name: str, limits: Limits, used: UsageOut) -> list[str]:
    """Why it was slow, or something in it was killed or refused, since it was started; each with what helps. Empty: no limit was in its way."""
    return [*_of_memory(name, limits, used), *_of_processors(name, limits, used), *_of_processes(name, limits, used), *_of_disk(name, limits, used)]


def _of_memory(name: str, limits: Limits, used: UsageOut) -> Iterator[str]:
    limit = limits.memory
    if limit and used.oom_kills:
        killed = "1 process was killed" if used.oom_kills == 1 else f"{used.oom_kills} processes were killed"
        yield f"{killed} because more than {format_size(limit + limits.swap)} of memory was wanted: hostler events tells which; hostler resize {name} --memory gives more"
    elif limit and (used.memory_limit_hits or used.memory_peak >= _NEARLY_ALL * limit):
        yield f"its memory was full, of which what files were read stays as long as there is room: they are read anew when it is not; hostler resize {name} --memory gives more"
    if used.swap_limit_hits:
        yield f"its swap was full {_times(used.swap_limit_hits)}; hostler resize {name} --swap gives more"
    if (used.memory_pressure or 0) >= _MUCH_WAITING:
        yield f"{used.memory_pressure:.0f}% of the last 10 s something waited for memory"


def _of_processors(name: str, limits: Limits, used: UsageOut) -> Iterator[str]:
    if used.cpu_throttled_periods and limits.cpu:
        yield (
            f"it wanted more than {limits.cpu:g} processors and was held back {_times(used.cpu_throttled_periods)}, for {_seconds(used.cpu_throttled_ns)} in all: "
            f"hostler resize {name} --cpu gives more"
        )
    if (used.cpu_pressure or 0) >= _MUCH_WAITING:
        cause = "by its cap, by its own processes among each other, or by busy neighbours" if limits.cpu else "by its own processes among each other, or by busy neighbours"
        yield f"{used.cpu_pressure:.0f}% of the last 10 s something waited for a processor: {cause}"


def _of_processes(name: str, limits: Limits, used: UsageOut) -> Iterator[str]:
    if used.pids_limit_hits:
        yield f"{_times(used.pids_limit_hits)} a new process or thread was refused, {limits.pids} being the most; hostler resize {name} --pids allows more"


def _of_disk(name: str, limits: Limits, used: UsageOut) -> Iterator[str]:
    if limits.disk and used.disk >= _NEARLY_ALL * limits.disk:
        yield f"its disk is full or nearly so: delete files, or hostler resize {name} --disk"
    if (used.io_pressure or 0) >= _MUCH_WAITING:
        yield f"{used.io_pressure:.0f}% of the last 10 s something waited for the disk"


def _waited(used: UsageOut) -> list[tuple[str, object]]:
    shares = {"cpu": used.cpu_pressure, "memory": used.memory_pressure, "disk": used.io_pressure}
    known = [f"{share:.0f}% for {what}" for what, share in shares.items() if share is not None]
    return [("waited", f"{', '.join(known)} in the last 10 s")] if known else []


def _of_bytes(now: int, limit: int | None) -> str:
    return _of(format_size(now), None if limit is None else format_size(limit))


def _of(now: str, limit: str | None) -> str:
    return f"{now}, no limit" if limit is None else f"{now} of {limit}"


def _marks(now: str, peak: str, hits: int) -> str:
    return ", ".join([now, *([f"at most {peak}"] if peak else []), *([f"limit hit {_times(hits)}"] if hits else [])])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.2f} s"
