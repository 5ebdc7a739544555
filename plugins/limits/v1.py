"""Limits as cgroup version 1 says them. Pure: from the intent to a list of writes.

Kernel documentation: admin-guide/cgroup-v1, scheduler/sched-bwc.
"""

from __future__ import annotations

from collections.abc import Sequence

from hostler.core.limits import Limits
from hostler_plugins.limits.writes import CPU_PERIOD_US, Device, Write, cpu_quota, rates

UNLIMITED = "-1"
_THROTTLE = {
    "rbps": "blkio.throttle.read_bps_device",
    "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device",
    "wiops": "blkio.throttle.write_iops_device",
}


def shares(weight: int) -> int:
    """``cpu.shares`` (1024 is one part) of a version 2 weight (100 is one part), so that ratios are kept."""
    return max(2, min(262_144, round(weight * 1024 / 100)))


def cpu(limits: Limits, inherited_cpus: str) -> list[Write]:
    """Weight, cap and pinning. ``inherited_cpus`` is written when nothing is pinned."""
    quota = cpu_quota(limits.cpu)
    return [
        Write("cpu", "cpu.shares", str(shares(limits.cpu_weight))),
        Write("cpu", "cpu.cfs_period_us", str(CPU_PERIOD_US), optional=True),
        Write("cpu", "cpu.cfs_quota_us", UNLIMITED if quota is None else str(quota), optional=True),
        Write("cpuset", "cpuset.cpus", limits.cpus or inherited_cpus),
    ]


def memory(limits: Limits, swap_limit_now: int | None) -> list[Write]:
    """Memory, and memory with swap, in the order the kernel takes: never the first above the second.

    ``swap_limit_now`` is ``memory.memsw.limit_in_bytes`` as it stands (bytes), None where swap is not accounted; there
    ``memory.swappiness`` 0 keeps the container from swap as far as it can.
    """
    value = UNLIMITED if limits.memory is None else str(limits.memory)
    soft = UNLIMITED if limits.memory_guarantee is None else str(limits.memory_guarantee)
    hard = Write("memory", "memory.limit_in_bytes", value)
    guarantee = Write("memory", "memory.soft_limit_in_bytes", soft, optional=True)
    if swap_limit_now is None:
        swappiness = "60" if limits.swap or limits.memory is None else "0"
        return [hard, Write("memory", "memory.swappiness", swappiness, optional=True), guarantee]
    total = UNLIMITED if limits.memory is None else str(limits.memory + limits.swap)
    both = Write("memory", "memory.memsw.limit_in_bytes", total)
    growing = limits.memory is None or limits.memory > swap_limit_now
    return [both, hard, guarantee] if growing else [hard, both, guarantee]


def pids(limits: Limits) -> list[Write]:
    """Processes and threads."""
    return [Write("pids", "pids.max", "max" if limits.pids is None else str(limits.pids))]


def io(limits: Limits, devices: Sequence[Device]) -> list[Write]:
    """Weight (where BFQ or CFQ schedule) and ceilings on each device; 0 lifts one."""
    writes = [Write("blkio", "blkio.bfq.weight", str(limits.io_weight), optional=True)]
    for major, minor in devices:
        for name, rate in rates(limits.io).items():
            writes.append(Write("blkio", _THROTTLE[name], f"{major}:{minor} {rate or 0}", optional=True))
    return writes


def all_writes(
    limits: Limits, *, inherited_cpus: str, swap_limit_now: int | None, devices: Sequence[Device]
) -> list[Write]:
    """Everything, what is most likely to be refused first, so that little is undone."""
    return [
        *memory(limits, swap_limit_now),
        *cpu(limits, inherited_cpus),
        *pids(limits),
        *io(limits, devices),
    ]
