"""What a container may use: one intent, which the limits drivers translate to cgroup v1 or v2.

``None`` means "not limited" everywhere, so that an empty :class:`Limits` is valid and unlimited.
"""

from __future__ import annotations

import re
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hostler.core.units import MIB, Rate, Size

_CPUS = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


class IoRate(BaseModel):
    """Block I/O ceilings of one container, per pool device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    read_bps: Size | None = Field(default=None, description="bytes per second")
    write_bps: Size | None = Field(default=None, description="bytes per second")
    read_iops: int | None = Field(default=None, ge=1)
    write_iops: int | None = Field(default=None, ge=1)


class Limits(BaseModel):
    """Everything that a plan or a resize can say about resources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: float | None = Field(default=None, ge=0.01, le=4096, description="CPU cap in processors: 0.5 is half of one")
    cpu_weight: int = Field(default=100, ge=1, le=10000, description="share among busy containers, as cgroup v2 counts it")
    cpus: str | None = Field(default=None, description="pinning: a list such as 0-1,4")
    memory: Size | None = Field(default=None, description="hard limit in bytes")
    memory_guarantee: Size | None = Field(default=None, description="bytes that are not reclaimed under pressure")
    swap: Size = Field(default=0, description="bytes of swap on top of memory")
    pids: int | None = Field(default=None, ge=4, le=4_000_000, description="processes and threads")
    disk: Size | None = Field(default=None, description="bytes of the root volume")
    io_weight: int = Field(default=100, ge=1, le=1000)
    io: IoRate = IoRate()
    rate_in: Rate | None = Field(default=None, description="network towards the container, bit/s")
    rate_out: Rate | None = Field(default=None, description="network from the container, bit/s")

    @field_validator("cpus")
    @classmethod
    def _cpu_list(cls, value: str | None) -> str | None:
        if value is not None and not _CPUS.fullmatch(value):
            raise ValueError("is not a CPU list; write numbers and ranges such as 0-1,4")
        return value

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if self.memory is not None and self.memory < 4 * MIB:
            raise ValueError("memory below 4M cannot start a process; give at least 4M")
        if self.disk is not None and self.disk < 4 * MIB:
            raise ValueError("disk below 4M holds no file system; give at least 4M")
        if self.memory is not None and self.memory_guarantee is not None and self.memory_guarantee > self.memory:
            raise ValueError("memory_guarantee is larger than memory; lower it or raise memory")
        return self

    def changed(self, change: LimitsChange) -> Limits:
        """These limits with ``change`` laid over them, validated as a whole."""
        return Limits.model_validate(self.model_dump() | change.model_dump(exclude_unset=True))


class LimitsChange(BaseModel):
    """A resize: only what is set changes. Setting a field to null lifts that limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: float | None = Field(default=None, ge=0.01, le=4096)
    cpu_weight: int = Field(default=100, ge=1, le=10000)
    cpus: str | None = None
    memory: Size | None = None
    memory_guarantee: Size | None = None
    swap: Size = 0
    pids: int | None = Field(default=None, ge=4, le=4_000_000)
    disk: Size | None = None
    io_weight: int = Field(default=100, ge=1, le=1000)
    io: IoRate = IoRate()
    rate_in: Rate | None = None
    rate_out: Rate | None = None


class Usage(BaseModel):
    """What a container uses now, its high-water marks, and how often a limit hit it. Read by a limits driver.

    Counters only grow during one life of the cgroup. A pressure (the kernel's ``some avg10``) is None where the kernel keeps none, a
    mark or count that it does not keep is 0.
    """

    cpu_ns: int = 0
    cpu_throttled_ns: int = 0
    cpu_throttled_periods: int = Field(default=0, description="how often the CPU cap made it wait")
    memory: int = Field(default=0, description="bytes, page cache included")
    memory_peak: int = 0
    memory_limit_hits: int = 0
    oom_kills: int = 0
    swap: int = 0
    swap_peak: int = 0
    swap_limit_hits: int = 0
    pids: int = 0
    pids_peak: int = 0
    pids_limit_hits: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    cpu_pressure: float | None = Field(default=None, description="% of the last 10 s in which a process waited for a processor")
    memory_pressure: float | None = Field(default=None, description="% of the last 10 s in which a process waited for memory")
    io_pressure: float | None = Field(default=None, description="% of the last 10 s in which a process waited for block I/O")
    disk: int = Field(default=0, description="bytes of the root volume")
    net_in_bytes: int = 0
    net_out_bytes: int = 0
