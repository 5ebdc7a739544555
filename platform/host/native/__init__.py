"""The programs in C that Hostler runs: ``hostler-init`` inside of containers, ``hostler-launch`` around the runtime and CRIU,
``hostler-enter`` for commands in containers that run, ``hostler-hook`` between CRIU and the platform.

``python -m hostler.host.native DIR`` compiles them into ``DIR`` (:attr:`hostler.contracts.driver.Host.libexec`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hostler.core.errors import Unsupported
from hostler.host.process import run

SOURCES = Path(__file__).parent
#: program → its source
PROGRAMS = {"hostler-init": "init.c", "hostler-launch": "launch.c", "hostler-enter": "enter.c", "hostler-hook": "hook.c"}
_FLAGS = ("-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror")


def build(into: Path) -> None:
    """Compile what is missing in ``into`` or older than its source. Idempotent, safe to run twice at once.

    A program appears whole or not at all, so that a running container's is never written to. Raises
    :class:`Unsupported` without a C compiler and :class:`HostFailure` with the compiler's words.
    """
    into.mkdir(parents=True, exist_ok=True)
    for program, source in PROGRAMS.items():
        _build_one(SOURCES / source, into / program)


def _build_one(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unsupported("there is no C compiler (cc) on this server", hint="apt-get install gcc libc6-dev")
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    draft = Path(name)
    try:
        run([compiler, *_FLAGS, "-o", draft, source], timeout=120)
        draft.chmod(0o755)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
