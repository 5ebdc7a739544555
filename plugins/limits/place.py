"""Where a node's cgroups are: below the cgroup that its worker was in when it was first set up.

There each account has a cgroup ``account.<account>``, and in it are its containers'. No container's id has a dot. A container that
was made without an account lies beside the accounts.

That place is kept in a file, so that a worker started again elsewhere (by another service, in another shell)
still finds its containers. After a reboot the file names cgroups that are gone, and a new place is taken.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path

from hostler.contracts.driver import Host
from hostler.core.errors import HostFailure, Unsupported
from hostler.core.names import check_id
from hostler.host import cgroups


def node_group(host: Host) -> str:
    """Name of the cgroup that holds all containers of a node."""
    return f"hostler-{host.installation}-{host.node}"


#: Beginning of the name of an account's cgroup.
_ACCOUNT = "account."
#: How often a container's cgroup is tried while others remove its account's.
_TRIES = 1000


def wanted(container: str, account: str) -> str:
    """Path of a container's cgroup below the node's. Raises :class:`Invalid` for what is no id."""
    return f"{_ACCOUNT}{check_id(account)}/{check_id(container)}" if account else check_id(container)


def found(base: Path, container: str) -> list[str]:
    """Paths below the node's cgroup ``base`` at which the container has one: one at most, unless somebody moved it. Raises :class:`Invalid`."""
    check_id(container)
    places = [container, *(f"{account}/{container}" for account in accounts(base))]
    return [where for where in places if (base / where).is_dir()]


def accounts(base: Path) -> list[str]:
    """Names of the accounts' cgroups in ``base``; none without it."""
    try:
        return sorted(entry.name for entry in os.scandir(base) if entry.name.startswith(_ACCOUNT))
    except FileNotFoundError:
        return []


def inside(base: Path) -> list[tuple[str, str | None]]:
    """All cgroups below ``base``: path and container. An account's own is told only when nobody is in it, and has no container."""
    paths: list[tuple[str, str | None]] = []
    for entry in _folders(base):
        if not entry.startswith(_ACCOUNT):
            paths.append((entry, entry))
            continue
        members = _folders(base / entry)
        paths += [(f"{entry}/{member}", member) for member in members] or [(entry, None)]
    return paths


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except FileNotFoundError:
        return []


def make(base: Path, where: str) -> Path:
    """The cgroup ``where`` below ``base`` and its account's, made when missing.

    An account's goes with its last container, maybe just now in another thread or process: then both are made again.
    """
    folder = base / where
    for _ in range(_TRIES):
        folder.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(exist_ok=True)
            return folder
    raise HostFailure(f"cannot make cgroup {folder}: its account's goes away again and again", hint="see what removes it", code="cgroup_stuck")


def drop_empty(base: Path, names: Iterable[str]) -> None:
    """Remove those of the accounts' cgroups ``names`` in which no container is."""
    for name in names:
        try:
            (base / name).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise


def own_places() -> dict[str, Path]:
    """Hierarchy → this process's own cgroup folder."""
    return {key: found.own for key, found in cgroups.hierarchies().items()}


def remembered(file: Path) -> dict[str, Path] | None:
    """The place in ``file``; None when there is no file, or a cgroup in it is gone."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    places = {key: Path(folder) for key, folder in content.items()}
    return places if places and all(folder.is_dir() for folder in places.values()) else None


def remember(file: Path, places: dict[str, Path]) -> None:
    """Write the place down, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}-{os.getpid()}-{os.urandom(4).hex()}")
    draft.write_text(json.dumps({key: str(folder) for key, folder in places.items()}))
    draft.replace(file)


def find(file: Path, needed: tuple[str, ...]) -> dict[str, Path]:
    """The remembered place, or this process's own one, which is remembered then.

    Raises :class:`Unsupported` when a hierarchy of ``needed`` is not mounted.
    """
    places = remembered(file)
    if places is None:
        places = own_places()
        missing = [key for key in needed if key not in places]
        if missing:
            raise Unsupported(
                f"this server has no cgroup hierarchy for {', '.join(missing)}",
                hint="mount it below /sys/fs/cgroup, or use the other limits driver",
            )
        remember(file, places)
    return places


def forget(file: Path) -> None:
    """Remove the file and the folder it is in, when nothing else is there."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError, OSError):
        file.parent.rmdir()
