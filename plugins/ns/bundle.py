"""The OCI runtime configuration of a container. Pure: from specs to ``config.json`` by value.

https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config-linux.md
"""

from __future__ import annotations

import ipaddress
import json
import platform
import signal
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hostler.core.errors import Invalid
from hostler.core.specs import ContainerSpec, ExecSpec
from hostler.core.units import MIB
from hostler.host.guest import INSIDE

#: What the container's root may do, in its own user namespace. No NET_ADMIN and NET_RAW (addresses are the platform's;
#: ping works through ``ping_group_range``), no MKNOD, no SYS_ADMIN, no SYS_PTRACE.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
#: Character devices that may be used, as (major, minor); None is every one. The nodes are bound from the host.
DEVICES: tuple[tuple[int, int | None], ...] = (
    (1, 3),  # null
    (1, 5),  # zero
    (1, 7),  # full
    (1, 8),  # random
    (1, 9),  # urandom
    (5, 0),  # tty
    (5, 2),  # ptmx
    (136, None),  # pts/*
)
#: Rather a tenant's process than one of the server's, when the whole server is out of memory.
OOM_SCORE = 200
_SHM_MOST = 64 * MIB
_SECCOMP_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}


@cache
def seccomp(machine: str = platform.machine()) -> dict[str, Any]:
    """The default filter: system calls that are allowed by name, all others give EPERM.

    Left out are those that reach the host (mount, modules, clocks, keys, bpf, perf, kexec, io_uring, userfaultfd, …).
    """
    profile: dict[str, Any] = json.loads((files("hostler_plugins.ns") / "seccomp.json").read_text())
    for rule in profile["syscalls"]:
        rule.pop("comment", None)
    return profile | {"architectures": list(_SECCOMP_ARCHITECTURES.get(machine, ()))}


def stop_signal(name: str) -> int:
    """Number of ``SIGTERM``, ``TERM`` or ``15``. Raises :class:`Invalid`."""
    if name.isdigit() and 0 < int(name) < 65:
        return int(name)
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    try:
        return int(signal.Signals[full])
    except KeyError:
        raise Invalid(f"{name} is not a signal", hint="write it as SIGTERM") from None


def guest_files(spec: ContainerSpec) -> dict[str, str]:
    """What is bound over ``/etc/hosts``, ``/etc/hostname`` and ``/etc/resolv.conf``."""
    hosts = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    addresses = [str(ipaddress.ip_interface(address).ip) for link in spec.links for address in link.addresses]
    hosts += [f"{address} {spec.name}" for address in addresses] or [f"127.0.1.1 {spec.name}"]
    return {
        "hosts": "".join(f"{line}\n" for line in hosts),
        "hostname": f"{spec.name}\n",
        "resolv.conf": "".join(f"nameserver {server}\n" for server in spec.nameservers),
    }


def process(spec: ContainerSpec, nofile: int) -> dict[str, Any]:
    """The OCI process that is the container's init. It switches to the tenant's user itself, inside."""
    tenant = spec.process
    command = [f"{INSIDE}/init", *_keep_home(tenant.env), "-u", tenant.user, "-w", tenant.cwd]
    return _confined([*command, "--", *tenant.args] if tenant.args else command, tenant.env, spec.name, nofile)


def exec_process(template: dict[str, Any], command: ExecSpec) -> dict[str, Any]:
    """The OCI process of a command in a running container: confined as ``template``, its init's process."""
    env = dict(item.split("=", 1) for item in template["env"] if "=" in item)
    env |= dict(item.split("=", 1) for item in command.env if "=" in item)
    given = [f"{name}={value}" for name, value in env.items()]
    args = [f"{INSIDE}/init", "-x", *_keep_home(given), "-u", command.user, "-w", command.cwd, "--", *command.args]
    return template | {"args": args, "env": given}


def _keep_home(env: Sequence[str]) -> list[str]:
    """The runtime always sets HOME, to root's; init sets it to the user's unless the tenant has chosen one."""
    return ["-k"] if any(item.startswith("HOME=") for item in env) else []


def _confined(args: list[str], env: tuple[str, ...], name: str, nofile: int) -> dict[str, Any]:
    caps = list(CAPABILITIES)
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": [*env, *([] if any(item.startswith("HOSTNAME=") for item in env) else [f"HOSTNAME={name}"])],
        "cwd": "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": min(1024, nofile), "hard": nofile},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE,
    }


def _mount(target: str, kind: str, *options: str, source: str | None = None) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}


def shm_size(spec: ContainerSpec) -> int:
    """Bytes of /dev/shm at most: half of the memory, in which it counts."""
    return min(_SHM_MOST, spec.limits.memory // 2) if spec.limits.memory else _SHM_MOST


def _mounts(spec: ContainerSpec, guest: Path, init: Path) -> list[dict[str, Any]]:
    bound = ("bind", "ro", "nosuid", "nodev")
    return [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=64k"),
        _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={shm_size(spec)}", source="shm"),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount(INSIDE, "bind", *bound, "noexec", source=str(guest)),
        _mount(f"{INSIDE}/init", "bind", *bound, source=str(init)),
        *(_mount(f"/etc/{name}", "bind", *bound, "noexec", source=str(guest / name)) for name in guest_files(spec)),
    ]


def network_settings(first: int, last: int) -> dict[str, str]:
    """Files below ``/proc/sys/net`` of a container, with dots for slashes, and what is in them. ``first`` and ``last`` group, as whoever writes them has them.

    Without MPTCP, which no checkpoint can take along, programs that prefer it (those in Go since 1.24) use plain TCP.
    """
    settings = {"ipv4.ip_unprivileged_port_start": "0", "ipv4.ping_group_range": f"{first} {last}"}
    return settings | ({"mptcp.enabled": "0"} if Path("/proc/sys/net/mptcp/enabled").exists() else {})


def config(
    spec: ContainerSpec, *, root: Path, guest: Path, init: Path, cgroups_path: str, nofile: int
) -> dict[str, Any]:
    """The whole ``config.json``.

    ``root`` is where the root file system is when the runtime looks, ``guest`` the container's guest folder, ``init`` the
    program ``hostler-init``, ``nofile`` the most open files (no more than the caller's own hard limit).
    """
    ids = [{"containerID": 0, "hostID": spec.ids.base, "size": spec.ids.count}]
    allowed = [
        {"allow": True, "type": "c", "major": major, **({} if minor is None else {"minor": minor}), "access": "rw"}
        for major, minor in DEVICES
    ]
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.name,
        "root": {"path": str(root), "readonly": False},
        "process": process(spec, nofile),
        "mounts": _mounts(spec, guest, init),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": cgroups_path,
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *allowed]},
            "sysctl": {f"net.{name}": value for name, value in network_settings(0, spec.ids.count - 1).items()},
            "seccomp": seccomp(),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }
