"""Named points of a server's work at which tests stop it, to see what becomes of everything when somebody dies just there.

Who wants work to stop makes the folder ``points`` in the server's own folder and an empty file in it, called as the point. Who comes to the
point first renames that to ``<point>.reached`` and waits until it is gone. On a server without the folder, which is every real one, a
point costs one system call.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from hostler.contracts.driver import Host

#: Seconds that work stands at a point at most.
_PATIENCE = 60.0


def points(host: Host) -> Path:
    """The folder of the points at which a server's work is to stop."""
    return host.state_dir / "points"


def passing(host: Host, point: str) -> None:
    """Stop here, if somebody wants that."""
    wanted = points(host) / point
    reached = wanted.with_name(f"{point}.reached")
    try:
        os.rename(wanted, reached)
    except FileNotFoundError:
        return
    deadline = time.monotonic() + _PATIENCE
    while reached.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
