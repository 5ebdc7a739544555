"""Driver ``cgroup2``: limits with cgroup version 2, one folder for each container in one for each account.

The worker's own cgroup must be delegated to it (systemd: ``Delegate=yes``) and may hold processes itself only if it is the
root: version 2 knows no processes in inner cgroups. So at setup the worker's processes are moved into a leaf ``hostler-worker``
beside the node's cgroup, unless the worker is in one already.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from pathlib import Path
from typing import ClassVar

from hostler.contracts.driver import Host, Item, Lack, Probe
from hostler.contracts.limits import Cgroup, LimitsCapabilities, LimitsDriver
from hostler.core.errors import Conflict, NotFound, Unsupported
from hostler.core.limits import Limits, Usage
from hostler.core.units import format_size
from hostler.host import blocks, cgroups, lxcfs
from hostler.host.cgroups import UNIFIED
from hostler_plugins.limits import place, v2
from hostler_plugins.limits.writes import Device, Write, apply_all

#: The leaf that keeps the worker's processes out of inner cgroups.
WORKER = "hostler-worker"
_NEEDED = ("cpu", "memory", "pids")


class Cgroup2(LimitsDriver):
    """Contract ``limits`` on cgroup version 2."""

    name: ClassVar[str] = "cgroup2"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> LimitsCapabilities:
        have = self._controllers()
        return LimitsCapabilities(
            cpu="cpu" in have,
            cpu_weight="cpu" in have,
            cpus="cpuset" in have,
            memory="memory" in have,
            memory_guarantee="memory" in have,
            swap="memory" in have,
            pids="pids" in have,
            io_weight="io" in have and any(blocks.scheduler(disk) == "bfq" for disk in self._disks()),
            io_rate="io" in have,
        )

    def probe(self) -> Probe:
        have = self._controllers()
        remedy = "give the worker's service Delegate=yes, or boot with systemd.unified_cgroup_hierarchy=1"
        lacks = [
            Lack(what=f"cgroup v2 controller {name}", remedy=remedy, blocks=True) for name in _NEEDED if name not in have
        ]
        lacks += [
            Lack(what=f"cgroup v2 controller {name}", remedy=remedy) for name in ("cpuset", "io") if name not in have
        ]
        lacks += filter(None, [self._unprotected(), lxcfs.lack(self.host)])
        return Probe(offers=sorted(name for name, able in self.capabilities if able), lacks=lacks)

    def inventory(self) -> list[Item]:
        places = place.remembered(self._file)
        base = places[UNIFIED] / place.node_group(self.host) if places else None
        if base is None or not base.is_dir():
            return []
        return [Item(kind="cgroup", name=f"{base.name}/{where}", owner=owner) for where, owner in place.inside(base)]

    def setup(self) -> None:
        self._base()

    def teardown(self) -> None:
        places = place.remembered(self._file)
        if places is not None:
            cgroups.remove(places[UNIFIED] / place.node_group(self.host))
        place.forget(self._file)

    def create(self, container: str, limits: Limits, account: str = "", account_weight: int = 100) -> Cgroup:
        cgroups.expect_moves()
        base = self._base()
        there = place.found(base, container)
        folder = base / (there[0] if there else place.wanted(container, account))
        try:
            place.make(base, str(folder.relative_to(base)))
            if folder.parent != base:
                _hand_down(folder.parent)
                if (folder.parent / "cpu.weight").exists():
                    cgroups.write(folder.parent, "cpu.weight", str(account_weight))
            self._limit(base, folder, limits)
        except BaseException:
            if not there:
                self.remove(container)
            raise
        # Absolute: runtimes disagree on what a relative path of version 2 is relative to.
        mount = cgroups.hierarchies()[UNIFIED].mount
        return Cgroup(path=f"/{folder.relative_to(mount)}", parents={UNIFIED: str(folder)})

    def apply(self, container: str, limits: Limits) -> None:
        self._limit(self._base(), self._folder(container), limits)

    def usage(self, container: str) -> Usage:
        folder = self._folder(container)
        try:
            return read_usage(folder)
        except FileNotFoundError:
            raise self._absent(container) from None

    def oom_kills(self, container: str) -> int:
        try:
            return cgroups.oom_kills({UNIFIED: str(self._folder(container))})
        except FileNotFoundError:
            raise self._absent(container) from None

    def processes(self, container: str) -> list[int]:
        base = self._base()
        return [pid for where in place.found(base, container) for pid in cgroups.processes(base / where)]

    def remove(self, container: str) -> None:
        base = self._base()
        places = place.found(base, container)
        for where in places:
            guaranteed = _guarantee(base / where)
            cgroups.kill_all(base / where)
            cgroups.remove(base / where)
            if guaranteed:
                self._add_up(base, (base / where).parent)
        # when nothing was found, whoever was killed may have left any account's
        place.drop_empty(base, [where.split("/")[0] for where in places if "/" in where] if places else place.accounts(base))

    # -- folders

    @property
    def _file(self) -> Path:
        return self.folder / "place.json"

    def _controllers(self) -> tuple[str, ...]:
        found = cgroups.hierarchies().get(UNIFIED)
        return found.controllers if found else ()

    def _base(self) -> Path:
        """The node's cgroup with its controllers handed down, made when missing."""
        with self._lock:
            places = place.remembered(self._file)
            if places is None:
                own = place.own_places().get(UNIFIED)
                if own is None:
                    raise Unsupported("this server has no cgroup v2", hint="use driver cgroup1")
                places = {UNIFIED: own.parent if own.name == WORKER else own}
                place.remember(self._file, places)
            parent = places[UNIFIED]
            base = parent / place.node_group(self.host)
            base.mkdir(exist_ok=True)
            for folder in (parent, base):
                _hand_down(folder)
            return base

    def _folder(self, container: str) -> Path:
        base = self._base()
        there = place.found(base, container)
        if not there:
            raise self._absent(container)
        return base / there[0]

    def _absent(self, container: str) -> NotFound:
        return NotFound(f"container {container} has no cgroup on this server", hint="start it, or delete it")

    # -- limits

    def _disks(self) -> list[Device]:
        return blocks.under(self.host.state_dir)

    def _limit(self, base: Path, folder: Path, limits: Limits) -> None:
        former = _guarantee(folder)
        self._write(folder, limits)
        if former or limits.memory_guarantee:
            self._add_up(base, folder.parent)

    def _add_up(self, base: Path, parent: Path) -> None:
        """What a container is guaranteed holds only as far as the cgroups around it are guaranteed as much: each gets the sum of what is in it."""
        with self._lock:
            for around in dict.fromkeys((parent, base)):
                add_up(around)

    def _unprotected(self) -> Lack | None:
        """The cgroup above ours that voids all memory guarantees, if there is one."""
        found = cgroups.hierarchies().get(UNIFIED)
        if found is None:
            return None
        above = (place.remembered(self._file) or {UNIFIED: found.own})[UNIFIED]
        while above != found.mount and found.mount in above.parents:
            if above.name != WORKER and (above / "memory.low").exists() and not _guarantee(above):
                remedy = "systemctl set-property its unit MemoryLow=, as much as containers are to be guaranteed in all"
                return Lack(what=f"memory guarantees: cgroup {above.relative_to(found.mount)} is guaranteed nothing itself", remedy=remedy)
            above = above.parent
        return None

    def _write(self, folder: Path, limits: Limits) -> None:
        writes = v2.all_writes(limits, devices=self._disks())
        if limits.memory is None:
            apply_all({UNIFIED: folder}, writes, former, _nothing)
            return
        with_high = shrink(folder, limits.memory)
        try:
            apply_all({UNIFIED: folder}, writes, former, _nothing)
        finally:
            if with_high:
                cgroups.write(folder, "memory.high", v2.MAX)


def _guarantee(folder: Path) -> bool:
    """Whether a cgroup is guaranteed any memory; one that is not there is not."""
    try:
        return cgroups.read(folder, "memory.low") != "0"
    except FileNotFoundError:
        return False


def add_up(folder: Path) -> None:
    """Guarantee a cgroup as much memory as those in it are. One that goes away meanwhile needs nothing any more."""
    claims = []
    for child in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            claims.append(cgroups.read(child, "memory.low"))
    total = v2.MAX if v2.MAX in claims else str(sum(map(int, claims)))
    with contextlib.suppress(FileNotFoundError):
        cgroups.write(folder, "memory.low", total)


def shrink(folder: Path, limit: int) -> bool:
    """Bring the memory in use below ``limit`` before ``memory.max`` is written, which would kill instead of refusing.

    ``memory.high`` keeps it there meanwhile; true when it was set and must be lifted again. Raises :class:`Conflict` with
    nothing changed when the kernel cannot reclaim enough.
    """
    in_use = int(cgroups.read(folder, "memory.current"))
    if in_use <= limit:
        return False
    cgroups.write(folder, "memory.high", str(limit))
    try:
        _reclaim(folder, limit)
        in_use = int(cgroups.read(folder, "memory.current"))
        if in_use > limit:
            raise Conflict(
                f"{format_size(in_use)} of memory are in use and cannot be brought down to {format_size(limit)}",
                hint="stop something inside, or choose a higher limit", code="memory_in_use",
            )
    except BaseException:
        cgroups.write(folder, "memory.high", v2.MAX)
        raise
    return True


def _reclaim(folder: Path, limit: int) -> None:
    if not (folder / "memory.reclaim").exists():  # before Linux 5.19, where memory.high alone must do
        return
    for _ in range(5):
        excess = int(cgroups.read(folder, "memory.current")) - limit
        if excess <= 0:
            return
        try:
            cgroups.write(folder, "memory.reclaim", str(excess))
        except OSError as error:
            if error.errno != errno.EAGAIN:  # EAGAIN: it reclaimed less than asked for
                raise


def _hand_down(folder: Path) -> None:
    """Enable our controllers for the cgroups below ``folder``, moving this service's processes to a leaf if they are in the way."""
    have = cgroups.read(folder, "cgroup.controllers").split()
    enabled = cgroups.read(folder, "cgroup.subtree_control").split()
    missing = [name for name in v2.CONTROLLERS if name in have and name not in enabled]
    if not missing:
        return
    words = " ".join(f"+{name}" for name in missing)
    try:
        cgroups.write(folder, "cgroup.subtree_control", words)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        leaf = folder / WORKER
        leaf.mkdir(exist_ok=True)
        for pid in cgroups.read(folder, "cgroup.procs").split():
            cgroups.move(int(pid), leaf)
        cgroups.write(folder, "cgroup.subtree_control", words)


def former(folder: Path, write: Write) -> str:
    """The value that ``write`` replaces, as it can be written back."""
    text = cgroups.read(folder, write.file)
    if write.file == "io.max":
        device = write.value.split()[0]
        lines = [line for line in text.splitlines() if line.split()[:1] == [device]]
        return lines[0] if lines else f"{device} rbps=max wbps=max riops=max wiops=max"
    if write.file in ("io.weight", "io.bfq.weight"):
        return text.splitlines()[0]
    return text or "\n"


def _nothing(folder: Path) -> None:
    """Version 2 refuses no memory limit, so there is nothing to reclaim for a second try."""


def read_usage(folder: Path) -> Usage:
    """Counters of a cgroup; a controller that is not there leaves zeros. FileNotFoundError without the cgroup."""
    cpu = cgroups.keyed(folder, "cpu.stat")
    events = cgroups.keyed(folder, "memory.events")
    swap = cgroups.keyed(folder, "memory.swap.events") if (folder / "memory.swap.events").exists() else {}
    read = written = 0
    for line in _optional(folder, "io.stat", "").splitlines():
        fields = dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)
        read += int(fields.get("rbytes", 0))
        written += int(fields.get("wbytes", 0))
    return Usage(
        cpu_ns=cpu.get("usage_usec", 0) * 1000,
        cpu_throttled_ns=cpu.get("throttled_usec", 0) * 1000,
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        memory=int(cgroups.read(folder, "memory.current")),
        memory_peak=int(_optional(folder, "memory.peak", "0")),
        memory_limit_hits=events.get("max", 0),
        oom_kills=events.get("oom_kill", 0),
        swap=int(_optional(folder, "memory.swap.current", "0")),
        swap_peak=int(_optional(folder, "memory.swap.peak", "0")),
        swap_limit_hits=swap.get("max", 0),
        pids=int(cgroups.read(folder, "pids.current")),
        pids_peak=int(_optional(folder, "pids.peak", "0")),
        pids_limit_hits=cgroups.keyed(folder, "pids.events").get("max", 0),
        io_read_bytes=read,
        io_write_bytes=written,
        cpu_pressure=cgroups.pressure(folder, "cpu"),
        memory_pressure=cgroups.pressure(folder, "memory"),
        io_pressure=cgroups.pressure(folder, "io"),
    )


def _optional(folder: Path, file: str, missing: str) -> str:
    return cgroups.read(folder, file) if (folder / file).exists() else missing
