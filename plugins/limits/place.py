"""Where a node's cgroups are: below the cgroup that its worker was in when it was first set up.

That place is kept in a file, so that a worker started again elsewhere (by another service, in another shell)
still finds its containers. After a reboot the file names cgroups that are gone, and a new place is taken.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from hostler.contracts.driver import Host
from hostler.core.errors import Unsupported
from hostler.host import cgroups


def node_group(host: Host) -> str:
    """Name of the cgroup that holds all containers of a node."""
    return f"hostler-{host.installation}-{host.node}"


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
