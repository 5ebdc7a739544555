"""The door to the freezer: a cgroup's processes halted where they are and let go, in version 1 and version 2.

Version 1: ``freezer.state`` of the freezer hierarchy; what is frozen there does not even die of SIGKILL before it is thawed.
Version 2: ``cgroup.freeze`` (Linux 5.2 and newer); a frozen process dies of SIGKILL at once. ``folders`` is
``contracts.limits.Cgroup.parents``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from hostler.core.errors import HostFailure, Unsupported
from hostler.host import cgroups

FREEZER = "freezer"
#: Seconds until a freeze that does not come about is begun anew; twice as long each time.
_PATIENCE = 0.05
_STATE, _FREEZE, _EVENTS = "freezer.state", "cgroup.freeze", "cgroup.events"


def frozen(folders: Mapping[str, str]) -> bool:
    """Whether processes there are frozen or about to be; false without the cgroup."""
    try:
        if FREEZER in folders:
            return cgroups.read(Path(folders[FREEZER]), _STATE) != "THAWED"
        if cgroups.UNIFIED in folders:
            return cgroups.read(Path(folders[cgroups.UNIFIED]), _FREEZE) == "1"
    except FileNotFoundError:
        return False
    return False


def freeze(folders: Mapping[str, str], timeout: float) -> None:
    """Halt all processes and return when they stand. When not all do within ``timeout`` seconds they are let go again and
    :class:`HostFailure` raised. Raises :class:`Unsupported` without a freezer."""
    try:
        if FREEZER in folders:
            _until(Path(folders[FREEZER]), _STATE, "FROZEN", timeout)
        elif cgroups.UNIFIED in folders and (Path(folders[cgroups.UNIFIED]) / _FREEZE).exists():
            _until(Path(folders[cgroups.UNIFIED]), _FREEZE, "1", timeout)
        else:
            raise Unsupported("this server has no freezer", hint="mount the freezer hierarchy, or use cgroup version 2 with Linux 5.2")
    except BaseException:
        thaw(folders)
        raise


def thaw(folders: Mapping[str, str]) -> None:
    """Let processes go on; none, or no cgroup, is a success."""
    for key, file, value in ((FREEZER, _STATE, "THAWED"), (cgroups.UNIFIED, _FREEZE, "0")):
        if key in folders and (Path(folders[key]) / file).exists():
            with contextlib.suppress(FileNotFoundError):
                cgroups.write(Path(folders[key]), file, value)
            return


def _until(folder: Path, file: str, value: str, timeout: float) -> None:
    """A program of many threads that is just replaced (execve) waits for threads which stand already, and then never stands
    itself in version 1. So whoever does not stand in time is let go for an instant and tried again."""
    deadline = time.monotonic() + timeout
    patience = _PATIENCE
    while not _stands_within(folder, file, value, patience):
        patience = min(patience * 2, 1.0)
        thaw({FREEZER if file == _STATE else cgroups.UNIFIED: str(folder)})
        if time.monotonic() > deadline:
            raise HostFailure(
                f"not all processes could be frozen within {timeout:g} s", code="freeze_failed",
                hint="one of them waits in the kernel, most likely for a disk; they run on",
            )
        time.sleep(0.001)


def _stands_within(folder: Path, file: str, value: str, patience: float) -> bool:
    deadline = time.monotonic() + patience
    pause = 0.0005
    cgroups.write(folder, file, value)
    while not _stands(folder, file, value):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


def _stands(folder: Path, file: str, value: str) -> bool:
    if file == _FREEZE:  # the events file alone tells when it is done
        return cgroups.keyed(folder, _EVENTS).get("frozen") == 1
    return cgroups.read(folder, file) == value
