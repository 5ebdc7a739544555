"""Settings of the machine that moves of containers gain from, set while any lab is up and set back when the last one goes.

On a real server they belong into /etc/sysctl.d (docs/operating.md); here nobody should have to know of them. What was there
before is kept in :data:`FOLDER`, with one file for each installation that wants them; both go with the last one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path("/run/hostler-tuning")
_BEFORE = ".before.json"
#: File → value, and which of two values is the better one. CRIU keeps memory that is to follow in pipes; containers fill their own
#: memory in; and a dump of a network namespace goes through the whole connection tracking table twice, 20 ms for
#: a quarter of a million buckets.
WANTED: dict[str, tuple[int, str]] = {
    "/proc/sys/fs/pipe-max-size": (16 << 20, "more"),
    "/proc/sys/vm/unprivileged_userfaultfd": (1, "more"),
    "/sys/module/nf_conntrack/parameters/hashsize": (16_384, "less"),
}


def tune(installation: str, folder: Path = FOLDER, wanted: dict[str, tuple[int, str]] | None = None) -> list[str]:
    """Set what is not as good already; in words what was set. What cannot be set is left: doctor tells what it costs."""
    told = []
    with _alone(folder):
        before = _read(folder)
        (folder / installation).touch()
        for name, (value, better) in (WANTED if wanted is None else wanted).items():
            file = Path(name)
            now = _value(file)
            if now is None or (now >= value if better == "more" else now <= value):
                continue
            before.setdefault(name, now)
            (folder / _BEFORE).write_text(json.dumps(before))
            if _set(file, value):
                told.append(f"{name} is {value} while a lab is up ({now} before)")
    return told


def untune(installation: str, folder: Path = FOLDER) -> None:
    """Give up the installation's wish; the last one sets everything back. No wish is a success."""
    if not folder.is_dir():
        return
    with _alone(folder):
        (folder / installation).unlink(missing_ok=True)
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            return
        for name, value in _read(folder).items():
            _set(Path(name), value)
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Alone with a folder that exists when the block begins. Whoever removed it while we waited leaves us with a new one."""
    while True:
        folder.mkdir(mode=0o755, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink == 0:
                continue
            yield
            return
        finally:
            os.close(handle)


def _read(folder: Path) -> dict[str, int]:
    try:
        return {str(name): int(value) for name, value in json.loads((folder / _BEFORE).read_text()).items()}
    except FileNotFoundError:
        return {}


def _value(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None  # the kernel has no such setting, or not yet


def _set(file: Path, value: int) -> bool:
    try:
        file.write_text(str(value))
    except OSError:
        return False
    return True
