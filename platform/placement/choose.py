"""Which server a container goes to: filters, then weights, with the reasons kept. Pure.

Filters say no with a sentence. Of those left, the one with the most room for this container wins: the
spread keeps a server's loss small. Ties are broken by name, so that a choice can be told again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostler.core.errors import NoRoom
from hostler.core.limits import Limits
from hostler.core.specs import DriverNames
from hostler.core.units import format_size


@dataclass(frozen=True)
class Candidate:
    """A server as placement sees it. Sizes in bytes; ``drivers`` as ``group:name``."""

    name: str
    online: bool
    cpus: float
    memory: int
    disk: int
    cpus_promised: float
    memory_promised: int
    disk_promised: int
    drivers: frozenset[str]


@dataclass(frozen=True)
class Overcommit:
    """How much more than it has a server may promise. Memory is never oversold by default."""

    cpu: float = 8.0
    memory: float = 1.0
    disk: float = 2.0


@dataclass(frozen=True)
class Choice:
    """The server chosen, the drivers it will use, and a sentence for each server that was looked at."""

    node: str
    drivers: DriverNames
    reasons: dict[str, str]


#: Which driver of a subsystem is taken where a plan names none, best first.
PREFERENCE: dict[str, tuple[str, ...]] = {
    "ns": ("runc", "crun"),
    "net": ("bridge", "routed"),
    "storage": ("btrfs", "loop", "overlay"),
    "limits": ("cgroup2", "cgroup1"),
}


def resolve_drivers(candidate: Candidate, wanted: Mapping[str, str]) -> DriverNames | str:
    """The drivers a container would have on the server, or why there are none."""
    chosen: dict[str, str] = {}
    for group, preference in PREFERENCE.items():
        names = (wanted[group],) if group in wanted else preference
        usable = [name for name in names if f"{group}:{name}" in candidate.drivers]
        if not usable:
            return f"has no usable {group} driver {' or '.join(names)}"
        chosen[group] = usable[0]
    return DriverNames.model_validate(chosen)


def refusal(candidate: Candidate, limits: Limits, ratio: Overcommit) -> str | None:
    """Why the server has no room for the container, or None."""
    if not candidate.online:
        return "is offline"
    room_cpu, room_memory, room_disk = room(candidate, ratio)
    if limits.cpu and limits.cpu > candidate.cpus:
        return f"has {candidate.cpus:g} CPUs, {limits.cpu:g} are asked for"
    if limits.cpu and limits.cpu > room_cpu + 1e-9:
        return f"has {max(room_cpu, 0):g} CPUs left to promise, {limits.cpu:g} are asked for"
    if limits.memory and limits.memory > room_memory:
        return f"has {format_size(max(room_memory, 0))} of memory left, {format_size(limits.memory)} are asked for"
    if limits.disk and limits.disk > room_disk:
        return f"has {format_size(max(room_disk, 0))} of disk left, {format_size(limits.disk)} are asked for"
    return None


def room(candidate: Candidate, ratio: Overcommit) -> tuple[float, int, int]:
    """CPUs, bytes of memory and bytes of disk that may still be promised."""
    return (
        candidate.cpus * ratio.cpu - candidate.cpus_promised,
        int(candidate.memory * ratio.memory) - candidate.memory_promised,
        int(candidate.disk * ratio.disk) - candidate.disk_promised,
    )


def weight(candidate: Candidate, limits: Limits, ratio: Overcommit) -> float:
    """The scarcest resource's free part after placing, 0 … 1."""
    room_cpu, room_memory, room_disk = room(candidate, ratio)
    parts = [
        (room_cpu - (limits.cpu or 0)) / (candidate.cpus * ratio.cpu or 1),
        (room_memory - (limits.memory or 0)) / (candidate.memory * ratio.memory or 1),
        (room_disk - (limits.disk or 0)) / (candidate.disk * ratio.disk or 1),
    ]
    return min(parts)


def choose(
    candidates: Sequence[Candidate], limits: Limits, wanted: Mapping[str, str], ratio: Overcommit | None = None
) -> Choice:
    """The best server. ``wanted`` names drivers by group, where a plan does. Raises :class:`NoRoom` with every server's reason."""
    ratio = ratio or Overcommit()
    reasons: dict[str, str] = {}
    weighed: list[tuple[float, str, DriverNames]] = []
    for candidate in candidates:
        no = refusal(candidate, limits, ratio)
        drivers = no or resolve_drivers(candidate, wanted)
        if isinstance(drivers, str):
            reasons[candidate.name] = drivers
            continue
        score = weight(candidate, limits, ratio)
        reasons[candidate.name] = f"can take it; {score:.0%} of its scarcest resource stays free"
        weighed.append((-score, candidate.name, drivers))
    if not weighed:
        listed = "; ".join(f"{name} {reason}" for name, reason in sorted(reasons.items())) or "there is no server at all"
        raise NoRoom(f"no server can take this container: {listed}", hint="choose a smaller plan, or add a server", code="no_server")
    _, name, drivers = min(weighed, key=lambda entry: entry[:2])
    return Choice(name, drivers, reasons)
