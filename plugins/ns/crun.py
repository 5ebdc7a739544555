"""Driver ``crun``: what is crun's own among OCI runtimes (1.8 and newer).

* Its paused init waits for a byte that somebody writes to ``exec.fifo``, which is all that ``crun start`` does.
* It refuses to run where version 2 is mounted beside version 1 (``/sys/fs/cgroup/unified``), and takes paths of version 1 from the
  top of each hierarchy, wherever it is itself. So there it is started in the container's cgroups, with that mount hidden and its own
  handling of cgroups off; what it would have done to them is the list of devices, which is ours to write anyway.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from hostler.contracts.limits import Cgroup
from hostler.core.errors import HostFailure
from hostler.host import cgroups
from hostler.host.pidfd import Identity
from hostler_plugins.ns.oci import Oci

_HYBRID = "/sys/fs/cgroup/unified"


class Crun(Oci):
    """Contract ``ns`` with crun."""

    name: ClassVar[str] = "crun"
    program: ClassVar[str] = "crun"

    def _create_words(self, cgroup: Cgroup, root: list[str]) -> list[str]:
        if cgroups.UNIFIED in cgroup.parents and len(cgroup.parents) == 1:
            return [self._launch, *root, "--", "crun", "--root", str(self._state)]
        return [self._launch, *root, *_inside(cgroup.parents.values()), "--", *self._without_cgroups()]

    def _without_cgroups(self) -> list[str]:
        return ["crun", "--root", str(self._state), "--cgroup-manager", "disabled"]

    def _open_gate(self, gate: Path, init: Identity) -> None:
        try:
            handle = os.open(gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # it runs already
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # nobody waits at it: whoever started it died before the FIFO was removed, or init is gone
            if not init.alive():
                raise HostFailure("the container's init ended when it was started", hint="its log may say why") from error
        else:
            with contextlib.closing(os.fdopen(handle, "wb", buffering=0)) as fifo, contextlib.suppress(BrokenPipeError):
                fifo.write(b"x")
        gate.unlink(missing_ok=True)


def _inside(folders: Iterable[str | Path]) -> list[str]:
    words = ["--hide", _HYBRID]
    for folder in folders:
        words += ["--join", str(folder)]
    return words
