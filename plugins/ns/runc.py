"""Driver ``runc``: what is runc's own among OCI runtimes (1.1 and newer).

* Its paused init waits until somebody reads from ``exec.fifo``, which is all that ``runc start`` does in 10 ms.
* ``runc delete`` sleeps in steps of 100 ms, and would remove the cgroups: it is never called.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import ClassVar

from hostler.contracts.limits import Cgroup
from hostler.core.errors import HostFailure, Timeout
from hostler.host import cgroups
from hostler.host.pidfd import Identity
from hostler_plugins.ns.oci import CREATE_TIMEOUT, Oci


class Runc(Oci):
    """Contract ``ns`` with runc."""

    name: ClassVar[str] = "runc"
    program: ClassVar[str] = "runc"

    def _create_words(self, cgroup: Cgroup, root: list[str]) -> list[str]:
        return [self._launch, *_joins(cgroup), *root, "--", "runc", "--root", str(self._state)]

    def _open_gate(self, gate: Path, init: Identity) -> None:
        try:
            handle = os.open(gate, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # it runs already
        deadline = time.monotonic() + CREATE_TIMEOUT
        try:
            while not _byte_came(handle) and gate.exists():  # gone: somebody else has started it
                if not init.alive():
                    raise HostFailure("the container's init ended when it was started", hint="its log may say why")
                if time.monotonic() > deadline:
                    raise Timeout(f"the container's init did not run within {CREATE_TIMEOUT} s", hint="the server is overloaded")
        finally:
            os.close(handle)
        gate.unlink(missing_ok=True)


def _byte_came(fifo: int) -> bool:
    poll = select.poll()
    poll.register(fifo, select.POLLIN)
    poll.poll(20)
    try:
        return bool(os.read(fifo, 1))
    except BlockingIOError:
        return False


def _joins(cgroup: Cgroup) -> list[str]:
    """The runtime takes cgroups v1 paths relative to where it is itself: put it where they are relative to."""
    if cgroup.path.startswith("/"):
        return []
    own = {key: found.own for key, found in cgroups.hierarchies().items()}
    words: list[str] = []
    for key, folder in cgroup.parents.items():
        base = Path(folder.removesuffix(f"/{cgroup.path}"))
        if own.get(key) != base:
            words += ["--join", str(base)]
    return words
