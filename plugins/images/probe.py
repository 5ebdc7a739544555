"""What unpacking needs of a host."""

from __future__ import annotations

import os
from pathlib import Path

from hostler.contracts.driver import Lack, Probe
from hostler.core.errors import Unsupported
from hostler.host.beneath import open_in_root

#: linux/capability.h: giving files away, writing into foreign folders, modes of foreign files, file capabilities.
_NEEDED = {0: "CAP_CHOWN", 1: "CAP_DAC_OVERRIDE", 3: "CAP_FOWNER", 31: "CAP_SETFCAP"}


def probe_host() -> Probe:
    """The same for all images drivers: ``openat2``, and root's power over files."""
    probe = Probe()
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(open_in_root(root, b".", os.O_PATH))
        finally:
            os.close(root)
        probe.offers.append("openat2")
    except Unsupported as error:
        probe.lacks.append(Lack(what=error.message, remedy=error.hint, blocks=True))
    mask = _effective_capabilities(Path("/proc/self/status").read_text())
    for bit, name in _NEEDED.items():
        if mask >> bit & 1:
            probe.offers.append(name)
        else:
            probe.lacks.append(Lack(what=f"the node worker lacks {name}", remedy="run it as root", blocks=True))
    return probe


def _effective_capabilities(status: str) -> int:
    """The mask CapEff of ``/proc/PID/status``, proc_pid_status(5)."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return int(value, 16)
    return 0
