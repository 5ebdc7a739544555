"""A container's own programs around a checkpoint: it may write down what it has in mind before, and learn afterwards that time has passed.

``/etc/hostler/before-checkpoint`` is run in the running container before it is frozen, ``/etc/hostler/after-restore`` once it runs again from
memory; each as the container's root, by exec, if it is a file that may be executed. ``HOSTLER_EVENT`` says why. A container without them
costs a look at two paths.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Final, Literal

import structlog

from hostler.core.errors import Conflict, HostlerError
from hostler.core.specs import ContainerSpec, ExecResult, ExecSpec
from hostler.host import beneath
from hostler.node.mobility import revival
from hostler.node.verbs import Server

log = structlog.get_logger()

BEFORE: Final = "/etc/hostler/before-checkpoint"
AFTER: Final = "/etc/hostler/after-restore"
#: Seconds that a hook may take.
PATIENCE: Final = 10.0
_OUTPUT = 4096

#: What is about to happen, and what has.
Coming = Literal["checkpoint", "suspend", "migrate"]
Came = Literal["restore", "clone", "resume", "migrate"]
_CAME: Final[tuple[Came, ...]] = ("restore", "clone", "resume", "migrate")


def before(server: Server, spec: ContainerSpec, event: Coming) -> None:
    """Run the hook before a checkpoint. Raises :class:`Conflict` (``hook_failed``) when it fails or is late: then nothing is frozen."""
    told = _run(server, spec, BEFORE, event)
    if told is not None and told["failed"]:
        raise Conflict(f"{BEFORE} in container {spec.name} {told['failed']}", hint="see why with hostler exec, mend it or remove it, and try again", code="hook_failed")


def expect(server: Server, container: str, event: Came) -> None:
    """Of a container that is held: note why it comes back, for whoever lets it go."""
    revival.images_of(server, container).with_name("event").write_text(event)


def expected(server: Server, container: str) -> Came | None:
    """What :func:`expect` noted; None when nothing is held any more, and so the hook is not due."""
    try:
        text = revival.images_of(server, container).with_name("event").read_text()
    except FileNotFoundError:
        return None
    return next(event for event in _CAME if event == text)


def after(server: Server, spec: ContainerSpec, event: Came | None) -> dict[str, Any] | None:
    """Run the hook in a container that has come back: how that went, for the operation's report. None without a hook. It never raises for
    what the hook does: the container runs."""
    if event is None:
        return None
    try:
        return _run(server, spec, AFTER, event)
    except HostlerError as error:
        log.warning("a hook could not be run", container=spec.id, error=error.message)
        return {"program": AFTER, "failed": f"could not be run: {error.message}", "ms": 0}


def _run(server: Server, spec: ContainerSpec, program: str, event: str) -> dict[str, Any] | None:
    ns = server.drivers.ns(spec.drivers.ns)
    sandbox = ns.inspect(spec.id)
    if sandbox.state != "running" or sandbox.pid is None or not _is_program(sandbox.pid, program):
        return None
    env = (*spec.process.env, f"HOSTLER_EVENT={event}")
    result = ns.exec(spec.id, ExecSpec(args=(program,), env=env, timeout=PATIENCE, output_limit=_OUTPUT))
    return {"program": program, "failed": _failed(result), "ms": round(result.seconds * 1000, 1)}


def _failed(result: ExecResult) -> str:
    """Empty for a success."""
    if result.timed_out:
        return f"took longer than {PATIENCE:.0f} s and was ended"
    if result.exit_code == 0:
        return ""
    said = (result.stderr or result.stdout).strip().splitlines()
    return f"failed with status {result.exit_code}{f': {said[-1][:200]}' if said else ''}"


def _is_program(init: int, path: str) -> bool:
    """Whether there is something to execute, as the container's processes would find it, without one of them."""
    try:
        root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has just ended
    try:
        handle = beneath.open_in_root(root, path.encode(), os.O_PATH)
    except OSError:
        return False  # not there, or where no program of the container's own files is
    finally:
        os.close(root)
    try:
        mode = os.fstat(handle).st_mode
    finally:
        os.close(handle)
    return stat.S_ISREG(mode) and bool(mode & 0o111)
