"""What is read from this host for the doctor. Nothing is decided here."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

from hostler.core.errors import HostlerError
from hostler.host import cgroups, mountinfo, mounts
from hostler.host.process import run
from hostler.settings import NodeSettings

#: What CRIU is asked for, by ``criu check --feature``.
CRIU_FEATURES = ("mem_dirty_track", "uffd", "uffd-noncoop", "pagemap_scan")
PROGRAMS = ("runc", "redis-server", "mkfs.btrfs", "mmdebstrap", "busybox", "nsenter", "setpriv")
SYSCTLS = ("user/max_user_namespaces", "fs/pipe-max-size", "vm/unprivileged_userfaultfd")
HELPERS = ("hostler-init", "hostler-launch", "hostler-enter")
#: File systems that storage drivers need.
_FILE_SYSTEMS = ("btrfs", "overlay")
_NETLINK_NETFILTER = 12  # linux/netlink.h
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized


@dataclass(frozen=True)
class HostFacts:
    """The host as it was seen."""

    kernel: str
    root: bool
    capabilities: int
    """CapEff of proc(5)."""
    namespaces: frozenset[str]
    filesystems: frozenset[str]
    cgroup_v1: frozenset[str]
    cgroup_v2: frozenset[str]
    """Controllers of the version 2 hierarchy, if it is mounted."""
    cgroup_v2_mounted: bool
    nftables: bool
    libnftables: bool
    programs: dict[str, str] = field(default_factory=dict)
    """Name → version (or path, for those that tell none), of those that are there."""
    criu_version: str = ""
    criu_features: dict[str, bool] = field(default_factory=dict)
    helpers: frozenset[str] = frozenset()
    libexec: str = ""
    home: str = ""
    disk_free: int = 0
    """Bytes free where the home folder lies or will lie."""
    sysctls: dict[str, int] = field(default_factory=dict)
    run_kind: str = ""
    """File system type of ``/run``."""
    clock_synchronized: bool = True


def gather(settings: NodeSettings) -> HostFacts:
    """Look at everything."""
    v1, v2, v2_mounted = _cgroup_versions()
    criu = str(settings.criu) if settings.criu else "criu"
    criu_version = _version([criu, "--version"])
    return HostFacts(
        kernel=platform.release(),
        root=os.geteuid() == 0,
        capabilities=_capabilities(Path("/proc/self/status").read_text()),
        namespaces=frozenset(os.listdir("/proc/self/ns")),
        filesystems=frozenset(kind for kind in _FILE_SYSTEMS if mounts.kernel_has(kind)),
        cgroup_v1=v1,
        cgroup_v2=v2,
        cgroup_v2_mounted=v2_mounted,
        nftables=_has_nftables(),
        libnftables=_has_library("libnftables.so.1"),
        programs={name: found for name in PROGRAMS if (found := _program(name))},
        criu_version=criu_version,
        criu_features={name: run([criu, "check", "--feature", name], check=False).returncode == 0 for name in CRIU_FEATURES} if criu_version else {},
        helpers=frozenset(name for name in HELPERS if os.access(settings.libexec / name, os.X_OK)),
        libexec=str(settings.libexec),
        home=str(settings.home),
        disk_free=_disk_free(settings.home),
        sysctls={name: int(file.read_text()) for name in SYSCTLS if (file := Path("/proc/sys") / name).is_file()},
        run_kind=_kind_of(Path("/run")),
        clock_synchronized=_clock_synchronized(),
    )


def _cgroup_versions() -> tuple[frozenset[str], frozenset[str], bool]:
    found = cgroups.hierarchies()
    unified = found.get(cgroups.UNIFIED)
    v1 = frozenset(name for key, hierarchy in found.items() if key != cgroups.UNIFIED for name in hierarchy.controllers)
    return v1, frozenset(unified.controllers if unified else ()), unified is not None


def _capabilities(status: str) -> int:
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)


def _has_nftables() -> bool:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError:
        return False
    return True


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        return ""
    return _version([path, "--version"]) if name in ("runc", "redis-server") else path


def _version(command: list[str]) -> str:
    """The first thing that looks like a version in what a program prints of itself; nothing when it does not run."""
    try:
        told = run(command, timeout=5).text
    except HostlerError:
        return ""
    match = re.search(r"\b(\d+(?:\.\d+)+)", told)
    return match[1] if match else ""


def _disk_free(home: Path) -> int:
    there = next(folder for folder in (home, *home.parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _kind_of(folder: Path) -> str:
    above = [mount for mount in mountinfo.read() if mount.point == folder or mount.point in folder.parents]
    return max(above, key=lambda mount: len(mount.point.parts)).kind if above else ""


def _clock_synchronized() -> bool:
    """Whether the kernel says so: ``adjtimex(2)`` with nothing to change. A struct timex is 208 bytes on 64-bit Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.adjtimex(ctypes.create_string_buffer(256)) != _TIME_ERROR)
