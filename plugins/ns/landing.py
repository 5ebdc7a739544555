"""What a container looks like to a checkpoint driver, and the place where one is brought back to life.

Of a container's mounts, CRIU dumps those whose content is the container's own: its root (by name only), proc, sysfs, devpts,
mqueue, and the tmpfs at /dev and /dev/shm unless they are as they were made (:func:`plain`). All others are *outside*: files of the host that the runtime bound, such as
device nodes and what is masked. They are named to CRIU and bound anew on arrival. Since a tenant cannot mount anything, the list is ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from hostler.core.specs import ContainerSpec, IdRange
from hostler.host import cgroups, devices, netns
from hostler.host.mountinfo import Mount
from hostler_plugins.ns import bundle

#: Kinds of file systems that are made anew, or are part of a checkpoint.
_OWN = frozenset({"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"})
#: Name of the empty folder that hides what a container must not see.
NOTHING = "nothing"
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_DEV_NAME, _SHM_NAME = "dev", "shm"
#: A link of crun's to /proc/kcore, which no container can read.
_CORE = "core"
#: What runc and crun make in /dev. hostler-launch makes the same.
_DEV = frozenset({*_DEVICES, "fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"})


def outside(mounts: Iterable[Mount], guest: Path) -> dict[str, str]:
    """Mount point → name of what is bound there (:func:`bindings`), for all whose content belongs to the host. Pure.

    The point may be elsewhere than the runtime was told: an image may have a symbolic link at /etc/hosts. So the name comes
    from what is mounted. ``guest`` is the container's guest folder.
    """
    found = {}
    for mount in mounts:
        point = str(mount.point)
        masks = mount.kind == "tmpfs" and point.startswith(("/proc/", "/sys/"))
        own = mount.kind == "tmpfs" and mount.root == "/" and not masks  # not so a file that was bound from a tmpfs of the host
        if point == "/" or mount.kind in _OWN or own:
            continue  # /dev and /dev/shm are the container's own
        if mount.kind.startswith("fuse"):
            continue  # files of lxcfs, which are taken away when the container is frozen
        found[point] = NOTHING if masks or mount.root.endswith(f"/{NOTHING}") else _name(mount, guest)
    return found


def plain(root: Path) -> dict[str, str]:
    """/dev and /dev/shm of a container at a standstill, below its ``root``, as far as they hold nothing but what every container's hold:
    mount point → name. CRIU would pack and unpack each with tar and gzip, which takes longer than all the rest of a small
    container; made anew they are the same."""
    found = {}
    if {entry.name for entry in os.scandir(root / "dev")} - {_CORE} == _DEV:
        found["/dev"] = _DEV_NAME
    if not any(os.scandir(root / "dev/shm")):
        found["/dev/shm"] = _SHM_NAME
    return found


def plain_words(shm: int) -> list[str]:
    """The options of hostler-launch that make them, owned by the container's root. ``shm``: bytes of /dev/shm at most."""
    return ["--dev", _DEV_NAME, *_DEVICES, "--shm", _SHM_NAME, str(shm)]


def _name(mount: Mount, guest: Path) -> str:
    if mount.kind == "devtmpfs":
        return f"device{mount.root}"
    tail = f"{guest.parent.name}/{guest.name}"
    _, below, file = mount.root.partition(tail)
    return f"guest{file}" if below else Path(mount.root).name


def bindings(spec: ContainerSpec, scratch: Path, init: Path) -> dict[str, Path]:
    """Name → what is bound there, for all that a container of this version can have.

    The one who binds is the container's root, who cannot enter the platform's folders: so :func:`launch_words` binds them
    into the scratch folder first.
    """
    places = {"guest": scratch / "guest", init.name: scratch / init.name, NOTHING: scratch / NOTHING, _DEV_NAME: scratch / _DEV_NAME, _SHM_NAME: scratch / _SHM_NAME}
    places |= {f"guest/{name}": scratch / "guest" / name for name in bundle.guest_files(spec)}
    return places | {f"device/{name}": Path("/dev") / name for name in _DEVICES}


def launch_words(launch: list[str], sources: Mapping[str, Path], folders: Mapping[str, str]) -> list[str]:
    """The call of hostler-launch that makes the root, puts what follows into the container's cgroups, and has ``sources``
    (name → folder or file) in the scratch folder."""
    words = [*launch]
    for name, source in sources.items():
        words += ["--bind", str(source), name]
    for folder in folders.values():
        words += ["--join", folder]
    return [*words, "--own-cgroups"]


def hold_devices(folders: Mapping[str, str]) -> None:
    """Allow a container, by its cgroups, what :mod:`bundle` lists and no other device. Both a created one, since runtimes always allow
    /dev/net/tun and making any node besides, and a restored one, of which they know nothing."""
    if "devices" in folders:
        folder = Path(folders["devices"])
        cgroups.write(folder, "devices.deny", "a")
        for major, minor in bundle.DEVICES:
            cgroups.write(folder, "devices.allow", f"c {major}:{'*' if minor is None else minor} rw")
    elif cgroups.UNIFIED in folders:
        devices.hold(Path(folders[cgroups.UNIFIED]), bundle.DEVICES)


def furnish(pid: int, ids: IdRange) -> None:
    """The settings of the network namespace that :func:`bundle.config` has the runtime set. Groups are the host's here: the kernel
    reads them in the user namespace of whoever writes."""
    settings = bundle.network_settings(ids.base, ids.base + ids.count - 1)
    with netns.entered(netns.of_process(pid)):
        for name, value in settings.items():
            Path("/proc/sys/net", *name.split(".")).write_text(value)
