"""What the facts of a host mean for Hostler. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hostler.core.messages import DriverFact
from hostler.core.units import GIB, MIB, format_size
from hostler.host import criu
from hostler.node.doctor.facts import CRIU_FEATURES, HELPERS, HostFacts
from hostler.node.doctor.findings import Finding, Status

#: mount_setattr(2) shifts ids since 5.12; on btrfs since 5.15.
OLDEST_KERNEL = (5, 15)
OLDEST_RUNC = (1, 1)
OLDEST_REDIS = (6, 2)
NAMESPACES = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup")
CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
#: What the platform itself and a first small container need.
LEAST_DISK = 2 * GIB
_PIPE_FOR_POSTCOPY = 4 * MIB

#: Bits of linux/capability.h, and what is not possible without them. True: nothing works without.
_CAPABILITIES = {
    21: ("CAP_SYS_ADMIN", True, "namespaces and mounts cannot be made"),
    12: ("CAP_NET_ADMIN", True, "networks cannot be made"),
    27: ("CAP_MKNOD", True, "containers' devices cannot be made"),
    7: ("CAP_SETUID", True, "processes cannot be run as another user"),
    24: (
        "CAP_SYS_RESOURCE",
        False,
        "checkpoints of processes outside of a user namespace fail (“Can't get rlimit”), and pipes cannot grow past fs.pipe-max-size",
    ),
    40: ("CAP_CHECKPOINT_RESTORE", False, "a restore cannot choose pids without CAP_SYS_ADMIN"),
}


def judge(facts: HostFacts) -> list[Finding]:
    """All findings, in the order they are shown."""
    return [
        *_kernel(facts),
        *_capabilities(facts),
        *_cgroups(facts),
        *_network(facts),
        *_storage(facts),
        *_programs(facts),
        *_checkpoints(facts),
        *_rest(facts),
    ]


def _finding(area: str, what: str, well: bool, detail: str, remedy: str, *, otherwise: Status = Status.BLOCKS, lack: str = "") -> Finding:
    """``ok`` with ``detail``, or ``otherwise`` with ``lack`` (default: the same detail) and the remedy."""
    if well:
        return Finding(area=area, what=what, status=Status.OK, detail=detail)
    return Finding(area=area, what=what, status=otherwise, detail=lack or detail, remedy=remedy)


def _kernel(facts: HostFacts) -> Iterator[Finding]:
    new_enough = criu.numbers(facts.kernel) >= OLDEST_KERNEL
    wanted = ".".join(map(str, OLDEST_KERNEL))
    yield _finding("kernel", "version", new_enough, facts.kernel, f"boot a kernel of {wanted} or newer")
    yield _finding("kernel", "id-mapped mounts", new_enough, "since 5.15 on btrfs", f"boot a kernel of {wanted} or newer", lack=f"{facts.kernel} cannot shift ids on btrfs")
    missing = [name for name in NAMESPACES if name not in facts.namespaces]
    yield _finding("kernel", "namespaces", not missing, " ".join(sorted(facts.namespaces)), "boot a kernel with them", lack=f"none of kind {', '.join(missing)}")
    allowed = facts.sysctls.get("user/max_user_namespaces", 0)
    yield _finding("kernel", "user namespaces", allowed > 0, f"up to {allowed}", "sysctl user.max_user_namespaces=28000", lack="switched off")


def _capabilities(facts: HostFacts) -> Iterator[Finding]:
    yield _finding("rights", "root", facts.root, "yes", "run this with sudo", otherwise=Status.LACKS, lack="not root: what follows is what this user has")
    for bit, (name, needed, without) in _CAPABILITIES.items():
        has = bool(facts.capabilities >> bit & 1)
        remedy = "run as root of the host, or give it to the service or container that Hostler runs in"
        yield _finding("rights", name, has, "yes", remedy, otherwise=Status.BLOCKS if needed and facts.root else Status.LACKS, lack=without)


def _cgroups(facts: HostFacts) -> Iterator[Finding]:
    versions = [f"version 1 ({' '.join(sorted(facts.cgroup_v1))})"] if facts.cgroup_v1 else []
    if facts.cgroup_v2_mounted:
        versions.append(f"version 2 ({' '.join(sorted(facts.cgroup_v2)) or 'no controllers'})")
    yield _finding("cgroups", "hierarchies", bool(versions), ", ".join(versions), "mount cgroup2 at /sys/fs/cgroup", lack="none is mounted")
    missing = [name for name in CONTROLLERS if name not in facts.cgroup_v1 | facts.cgroup_v2]
    yield _finding("cgroups", "controllers", not missing, " ".join(CONTROLLERS), "boot with them enabled", lack=f"{', '.join(missing)} missing: those limits cannot be held")
    block = {"io", "blkio"} & (facts.cgroup_v1 | facts.cgroup_v2)
    yield _finding("cgroups", "block I/O", bool(block), " ".join(sorted(block)), "boot a kernel with it", otherwise=Status.LACKS, lack="no limits of disk I/O")


def _network(facts: HostFacts) -> Iterator[Finding]:
    yield _finding("network", "nftables", facts.nftables, "the kernel has it", "boot a kernel with CONFIG_NF_TABLES", lack="the kernel has none")
    yield _finding("network", "libnftables", facts.libnftables, "libnftables.so.1", "apt-get install libnftables1", lack="libnftables.so.1 does not load")


def _storage(facts: HostFacts) -> Iterator[Finding]:
    btrfs = "btrfs" in facts.filesystems
    overlay = "overlay" in facts.filesystems
    one = Status.LACKS if btrfs or overlay else Status.BLOCKS
    yield _finding("storage", "btrfs", btrfs, "the kernel has it", "modprobe btrfs", otherwise=one, lack="no volumes with quota and snapshots")
    yield _finding("storage", "overlay", overlay, "the kernel has it", "modprobe overlay", otherwise=one, lack="no overlay volumes")
    room = facts.disk_free >= LEAST_DISK
    yield _finding("storage", "disk space", room, f"{format_size(facts.disk_free)} free at {facts.home}", f"free {format_size(LEAST_DISK)} or choose another --home")


def _programs(facts: HostFacts) -> Iterator[Finding]:
    for name, oldest in (("runc", OLDEST_RUNC), ("redis-server", OLDEST_REDIS)):
        found = facts.programs.get(name, "")
        lack = f"{found} is older than {'.'.join(map(str, oldest))}" if found else "not installed"
        yield _finding("programs", name, criu.numbers(found) >= oldest, found, "ops/install brings it", lack=lack)
    needs = {
        "mkfs.btrfs": "no pool can be made in a file",
        "mmdebstrap": "no Debian images can be built",
        "busybox": "no busybox image can be built",
        "nsenter": "lab servers cannot be entered",
        "setpriv": "ops/up cannot drop root's rights",
    }
    for name, without in needs.items():
        found = facts.programs.get(name, "")
        yield _finding("programs", name, bool(found), found, "ops/install brings it", otherwise=Status.LACKS, lack=without)
    missing = [name for name in HELPERS if name not in facts.helpers]
    yield _finding("programs", "compiled programs", not missing, f"{', '.join(HELPERS)} in {facts.libexec}", f"python -m hostler.host.native {facts.libexec}", lack=f"{', '.join(missing)} not in {facts.libexec}")


def _checkpoints(facts: HostFacts) -> Iterator[Finding]:
    without = "containers cannot be suspended to disk or moved while they run"
    lack = f"{facts.criu_version} is older than {criu.oldest(facts.kernel)}, which kernel {facts.kernel} needs: {without}" if facts.criu_version else f"not installed: {without}"
    yield _finding(
        "checkpoints", "criu", not criu.too_old(facts.criu_version, facts.kernel), facts.criu_version, "ops/install brings one, from the machine's own Debian mirror", otherwise=Status.LACKS, lack=lack
    )
    if not facts.criu_features:
        return
    has = [name for name in CRIU_FEATURES if facts.criu_features.get(name)]
    yield _finding("checkpoints", "features", bool(has), ", ".join(has), "boot a kernel with userfaultfd", otherwise=Status.LACKS, lack="none of those it was asked for")
    pre_copy = facts.criu_features.get("mem_dirty_track", False)
    yield _finding(
        "checkpoints", "pre-copy", pre_copy, "the kernel tracks dirty pages", "boot a kernel with CONFIG_MEM_SOFT_DIRTY", otherwise=Status.LACKS, lack="the kernel does not track dirty pages"
    )
    pipes = bool(facts.capabilities >> 24 & 1) or facts.sysctls.get("fs/pipe-max-size", 0) >= _PIPE_FOR_POSTCOPY
    faults = facts.sysctls.get("vm/unprivileged_userfaultfd", 0) == 1
    remedies = [
        *([] if facts.criu_features.get("uffd-noncoop") else ["boot a kernel with userfaultfd"]),
        *([] if pipes else [f"sysctl fs.pipe-max-size={_PIPE_FOR_POSTCOPY}"]),
        *([] if faults else ["sysctl vm.unprivileged_userfaultfd=1"]),
    ]
    yield _finding("checkpoints", "post-copy", not remedies, "memory can follow a moved container", "; ".join(remedies), otherwise=Status.LACKS, lack="a moved container is stopped while all of its memory travels")


def _rest(facts: HostFacts) -> Iterator[Finding]:
    yield _finding("host", "clock", facts.clock_synchronized, "synchronized", "run chrony or systemd-timesyncd", otherwise=Status.LACKS, lack="not synchronized: leases and tickets between servers need clocks that agree")
    yield _finding("host", "/run", facts.run_kind == "tmpfs", "tmpfs", "mount a tmpfs on /run", otherwise=Status.LACKS, lack=f"on {facts.run_kind}: CRIU probes the kernel anew each time (15 ms)")


#: Groups of which one usable driver is needed.
_NEEDED_GROUPS = ("ns", "net", "storage", "limits", "images")


def judge_drivers(facts: list[DriverFact], server: str = "") -> list[Finding]:
    """What the drivers found when they were probed. One usable driver of each group is enough. ``server``: whose they are, if there are several."""
    area = f"drivers of {server}" if server else "drivers"
    usable = {fact.group for fact in facts if fact.usable}
    findings = [_driver(area, fact, spare=fact.group in usable) for fact in facts]
    known = {fact.group for fact in facts}
    absent = [Finding(area=area, what=group, status=Status.BLOCKS, detail="no driver is installed", remedy="run ops/install again") for group in _NEEDED_GROUPS if group not in known]
    return findings + absent


def unreadable(path: str) -> Finding:
    """Servers have settings of their own here, which this user may not read."""
    detail = f"{path} is not for this user: drivers are judged by default settings, not by the servers' own"
    return Finding(area="drivers", what="settings", status=Status.LACKS, detail=detail, remedy="run this with sudo")


def _driver(area: str, fact: DriverFact, *, spare: bool) -> Finding:
    status = Status.BLOCKS if not fact.usable and not spare else Status.LACKS if fact.problem else Status.OK
    offers = " ".join(fact.capabilities)
    return Finding(area=area, what=f"{fact.group} {fact.name}", status=status, detail="; ".join(part for part in (offers, fact.problem) if part))
