"""Driver ``cgroup1``: limits with cgroup version 1, one folder per hierarchy for each container.

The folders are ``<own cgroup>/hostler-<installation>-<node>/account.<account>/<container>`` in every hierarchy that is mounted,
named ones included, since the runtime joins them all and what it makes itself would be left behind.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from hostler.contracts.driver import Host, Item, Lack, Probe, Settings
from hostler.contracts.limits import Cgroup, LimitsCapabilities, LimitsDriver
from hostler.core.errors import NotFound, Unsupported
from hostler.core.limits import Limits, Usage
from hostler.host import blocks, cgroups, lxcfs
from hostler_plugins.limits import place, v1
from hostler_plugins.limits.writes import Device, Write, apply_all

_NEEDED = ("cpu", "cpuset", "memory", "pids", "devices", "freezer")
_SWAP = "memory.memsw.limit_in_bytes"


class Cgroup1(LimitsDriver):
    """Contract ``limits`` on cgroup version 1."""

    name: ClassVar[str] = "cgroup1"
    settings_model: ClassVar[type[Settings]] = Settings

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._lock = threading.Lock()
        self._places: dict[str, Path] | None = None

    @property
    def capabilities(self) -> LimitsCapabilities:
        found = cgroups.hierarchies()
        memory = found.get("memory")
        blkio = found.get("blkio")
        return LimitsCapabilities(
            cpu="cpu" in found and (found["cpu"].mount / "cpu.cfs_quota_us").exists(),
            cpu_weight="cpu" in found,
            cpus="cpuset" in found,
            memory=memory is not None,
            memory_guarantee=False,
            swap=memory is not None and (memory.mount / _SWAP).exists(),
            pids="pids" in found,
            io_weight=blkio is not None and any(blocks.scheduler(disk) == "bfq" for disk in self._disks()),
            io_rate=blkio is not None and (blkio.mount / "blkio.throttle.read_bps_device").exists(),
        )

    def probe(self) -> Probe:
        found = cgroups.hierarchies()
        lacks = [
            Lack(what=f"cgroup v1 hierarchy {key}", remedy="use driver cgroup2, or mount the hierarchy", blocks=True)
            for key in _NEEDED
            if key not in found
        ]
        can = self.capabilities
        if not can.swap:
            lacks.append(Lack(what="swap accounting", remedy="boot the kernel with swapaccount=1"))
        if not can.io_weight:
            lacks.append(Lack(what="block I/O weight", remedy="choose the bfq scheduler for the pool's disk"))
        lacks.append(Lack(what="memory guarantee", remedy="cgroup v2 has memory.low; version 1 has a soft limit only"))
        lacks.append(Lack(what="block I/O rates of buffered writes", remedy="cgroup v2 accounts for them; version 1 throttles reads and direct writes"))
        lacks += filter(None, [lxcfs.lack(self.host)])
        return Probe(offers=sorted(name for name, able in can if able), lacks=lacks)

    def inventory(self) -> list[Item]:
        places = place.remembered(self._file)
        if places is None:
            return []
        found = {one for base in self._node_folders(places).values() for one in place.inside(base)}
        group = place.node_group(self.host)
        return [Item(kind="cgroup", name=f"{group}/{where}", owner=owner) for where, owner in sorted(found, key=lambda one: one[0])]

    def setup(self) -> None:
        self._bases()

    def teardown(self) -> None:
        places = place.remembered(self._file)
        for base in self._node_folders(places or {}).values():
            cgroups.remove(base)
        with self._lock:
            self._places = None
            place.forget(self._file)

    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        cgroups.expect_moves()
        bases = self._bases()
        there = place.found(bases["memory"], container)
        where = there[0] if there else place.wanted(container, account)
        fresh = not any((base / where).exists() for base in bases.values())
        try:
            folders = {key: place.make(base, where) for key, base in bases.items()}
            if "/" in where:
                _inherit_cpuset(folders["cpuset"].parent)
                cgroups.write(folders["cpu"].parent, "cpu.shares", str(v1.shares(account_weight)))
            _inherit_cpuset(folders["cpuset"])
            self._write(folders, limits)
        except BaseException:
            if fresh:
                self.remove(container)
            raise
        return Cgroup(
            path=f"{place.node_group(self.host)}/{where}",
            parents={key: str(folder) for key, folder in folders.items()},
        )

    def apply(self, container: str, limits: Limits) -> None:
        self._write(self._folders(container), limits)

    def usage(self, container: str) -> Usage:
        folders = self._folders(container)
        try:
            return _usage(folders)
        except FileNotFoundError:
            raise self._absent(container) from None

    def oom_kills(self, container: str) -> int:
        try:
            return cgroups.oom_kills({"memory": str(self._folders(container)["memory"])})
        except FileNotFoundError:
            raise self._absent(container) from None

    def processes(self, container: str) -> list[int]:
        base = self._bases()["pids"]
        return [pid for where in place.found(base, container) for pid in cgroups.processes(base / where)]

    def remove(self, container: str) -> None:
        bases = self._bases()
        places = {where for base in bases.values() for where in place.found(base, container)}
        for where in places:
            folders = {key: base / where for key, base in bases.items()}
            if folders["pids"].is_dir():
                cgroups.stop_forks_in(folders["pids"])
            for key in ("freezer", *(other for other in folders if other != "freezer")):  # what is frozen cannot die
                cgroups.kill_all(folders[key])
            for folder in folders.values():
                cgroups.remove(folder)
        for base in bases.values():  # when nothing was found, whoever was killed may have left any account's
            place.drop_empty(base, [where.split("/")[0] for where in places if "/" in where] if places else place.accounts(base))

    # -- folders

    @property
    def _file(self) -> Path:
        return self.folder / "place.json"

    def _node_folders(self, places: Mapping[str, Path]) -> dict[str, Path]:
        group = place.node_group(self.host)
        return {key: folder / group for key, folder in places.items()}

    def _bases(self) -> dict[str, Path]:
        """The node's cgroup in each hierarchy, made when missing."""
        with self._lock:
            if self._places is None or not all(folder.is_dir() for folder in self._places.values()):
                places = place.find(self._file, _NEEDED)
                self._places = places
            bases = self._node_folders(self._places)
            for key, base in bases.items():
                if not base.is_dir():
                    base.mkdir(exist_ok=True)
                    if key == "cpuset":
                        _inherit_cpuset(base)
            return bases

    def _folders(self, container: str) -> dict[str, Path]:
        bases = self._bases()
        there = place.found(bases["memory"], container)
        if not there:
            raise self._absent(container)
        return {key: base / there[0] for key, base in bases.items()}

    def _absent(self, container: str) -> NotFound:
        return NotFound(f"container {container} has no cgroup on this server", hint="start it, or delete it")

    # -- limits

    def _disks(self) -> list[Device]:
        return blocks.under(self.host.state_dir)

    def _write(self, folders: Mapping[str, Path], limits: Limits) -> None:
        if limits.cpu is not None and not (folders["cpu"] / "cpu.cfs_quota_us").exists():
            raise Unsupported("this kernel has no CPU cap (CONFIG_CFS_BANDWIDTH)", hint="use a CPU weight")
        swap_file = folders["memory"] / _SWAP
        writes = v1.all_writes(
            limits,
            inherited_cpus=cgroups.read(folders["cpuset"].parent, "cpuset.cpus"),
            swap_limit_now=int(swap_file.read_text()) if swap_file.exists() else None,
            devices=self._disks() if "blkio" in folders else (),
        )
        apply_all(folders, [write for write in writes if write.key in folders], _former, _reclaim)


def _inherit_cpuset(folder: Path) -> None:
    """A new cpuset has no processors and no memory, and takes no process before it has both."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not cgroups.read(folder, file):
            cgroups.write(folder, file, cgroups.read(folder.parent, file))


def _former(folder: Path, write: Write) -> str:
    if not write.file.startswith("blkio.throttle."):
        return cgroups.read(folder, write.file)
    device = write.value.split()[0]
    for line in cgroups.read(folder, write.file).splitlines():
        if line.split()[0] == device:
            return line
    return f"{device} 0"


def _reclaim(folder: Path) -> None:
    """Push out of memory what can be read again. Whether it was enough is seen when the limit is written again."""
    with contextlib.suppress(OSError):
        cgroups.write(folder, "memory.force_empty", "0")


def _usage(folders: Mapping[str, Path]) -> Usage:
    memory, pids = folders["memory"], folders["pids"]
    in_use = int(cgroups.read(memory, "memory.usage_in_bytes"))
    swapped, hits = 0, int(cgroups.read(memory, "memory.failcnt"))
    # The kernel stopped counting failures in version 1 somewhere before 6.18, where both stay 0.
    if (memory / _SWAP).exists():  # without swap both limits are the same, and this one is asked first
        hits += int(cgroups.read(memory, "memory.memsw.failcnt"))
        swapped = max(0, int(cgroups.read(memory, "memory.memsw.usage_in_bytes")) - in_use)
    read, written = _io_bytes(folders["blkio"]) if "blkio" in folders else (0, 0)
    throttled = cgroups.keyed(folders["cpu"], "cpu.stat")
    peak = pids / "pids.peak"
    # a version 2 without controllers is often mounted beside: it counts pressure all the same
    unified = folders.get(cgroups.UNIFIED)
    pressure = {name: cgroups.pressure(unified, name) if unified else None for name in ("cpu", "memory", "io")}
    return Usage(
        cpu_ns=int(cgroups.read(folders.get("cpuacct", folders["cpu"]), "cpuacct.usage")),  # often one hierarchy
        cpu_throttled_ns=throttled.get("throttled_time", 0),
        cpu_throttled_periods=throttled.get("nr_throttled", 0),
        memory=in_use,
        memory_peak=int(cgroups.read(memory, "memory.max_usage_in_bytes")),
        memory_limit_hits=hits,
        oom_kills=cgroups.keyed(memory, "memory.oom_control").get("oom_kill", 0),
        swap=swapped,
        pids=int(cgroups.read(pids, "pids.current")),
        pids_peak=int(peak.read_text()) if peak.exists() else 0,
        pids_limit_hits=cgroups.keyed(pids, "pids.events").get("max", 0),
        io_read_bytes=read,
        io_write_bytes=written,
        cpu_pressure=pressure["cpu"],
        memory_pressure=pressure["memory"],
        io_pressure=pressure["io"],
    )


def _io_bytes(folder: Path) -> tuple[int, int]:
    read = written = 0
    for line in cgroups.read(folder, "blkio.throttle.io_service_bytes_recursive").splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] == "Read":
            read += int(fields[2])
        elif len(fields) == 3 and fields[1] == "Write":
            written += int(fields[2])
    return read, written
