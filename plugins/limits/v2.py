"""Limits as cgroup version 2 says them. Pure: from the intent to a list of writes.

Kernel documentation: admin-guide/cgroup-v2.
"""

from __future__ import annotations

from collections.abc import Sequence

from hostler.core.limits import Limits
from hostler.host.cgroups import UNIFIED
from hostler_plugins.limits.writes import CPU_PERIOD_US, Device, Write, cpu_quota, rates

MAX = "max"
#: Controllers that a container's cgroup needs, as far as the host has them.
CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io")


def _or_max(value: int | None) -> str:
    return MAX if value is None else str(value)


def cpu(limits: Limits) -> list[Write]:
    """Weight, cap and pinning; an empty ``cpuset.cpus`` is what the parent has."""
    return [
        Write(UNIFIED, "cpu.weight", str(limits.cpu_weight), optional=True),
        Write(UNIFIED, "cpu.max", f"{_or_max(cpu_quota(limits.cpu))} {CPU_PERIOD_US}", optional=True),
        Write(UNIFIED, "cpuset.cpus", limits.cpus or "\n", optional=limits.cpus is None),
    ]


def memory(limits: Limits) -> list[Write]:
    """Limit, guarantee (``memory.low``: kept under pressure as long as others have something to give) and swap.

    ``memory.max`` comes last: the driver has brought the use below it by then.
    """
    return [
        Write(UNIFIED, "memory.low", str(limits.memory_guarantee or 0)),
        Write(UNIFIED, "memory.swap.max", MAX if limits.memory is None else str(limits.swap), optional=True),
        Write(UNIFIED, "memory.max", _or_max(limits.memory)),
    ]


def pids(limits: Limits) -> list[Write]:
    """Processes and threads."""
    return [Write(UNIFIED, "pids.max", _or_max(limits.pids))]


def io(limits: Limits, devices: Sequence[Device]) -> list[Write]:
    """Weight (of BFQ and of the IO cost model) and ceilings on each device."""
    writes = [
        Write(UNIFIED, "io.bfq.weight", str(limits.io_weight), optional=True),
        Write(UNIFIED, "io.weight", f"default {limits.io_weight}", optional=True),
    ]
    ceilings = " ".join(f"{name}={_or_max(rate)}" for name, rate in rates(limits.io).items())
    for major, minor in devices:
        writes.append(Write(UNIFIED, "io.max", f"{major}:{minor} {ceilings}", optional=True))
    return writes


def all_writes(limits: Limits, *, devices: Sequence[Device]) -> list[Write]:
    """Everything, what is most likely to be refused first, so that little is undone."""
    return [*cpu(limits), *pids(limits), *io(limits, devices), *memory(limits)]
