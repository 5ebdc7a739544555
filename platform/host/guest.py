"""A container's folder on its server: what ns drivers leave there, and the watch and the worker read.

    guest/              bound read-only at /.hostler inside; hostler-init opens the FIFOs
      out err status      FIFOs, owned by the container's root
      init                where hostler-init is bound
      hosts hostname resolv.conf    bound over the files in /etc
    init.json           InitRecord: the init process, written at create, removed at delete
    exit.json           ExitRecord: how the last init ended, written by the watch
    spec.json           the container's spec, kept by the worker
    expected            present while the platform itself is ending the container
    oom.json            what the watch has told of memory kills
    log/                the container's output
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel

from hostler.contracts.driver import Host
from hostler.host.pidfd import Identity

#: Where the guest folder is inside of a container.
INSIDE = "/.hostler"
OUT, ERR, STATUS = "out", "err", "status"


class InitRecord(BaseModel):
    """A container's init, for whoever must find it again after a restart."""

    pid: int
    started_at: int
    cgroups: dict[str, str] = {}
    """Hierarchy → the container's cgroup folder (``contracts.limits.Cgroup.parents``)."""
    driver: str = "runc"
    """Name of the ns driver that made it; records of the time when there was one only do not say."""

    @property
    def identity(self) -> Identity:
        """The process."""
        return Identity(self.pid, self.started_at)


class ExitRecord(BaseModel):
    """How an init ended. Exactly one of ``code`` and ``signal`` is set, none when it could not be told."""

    pid: int
    started_at: int
    code: int | None = None
    signal: int | None = None
    expected: bool = False
    at: datetime
    told: bool = False
    """The event has been handed on."""

    @property
    def status(self) -> int | None:
        """As a shell tells it: 128 and the signal's number for a killed process."""
        return 128 + self.signal if self.signal is not None else self.code


def guest_dir(host: Host, container: str) -> Path:
    """The folder that is bound into the container."""
    return host.container_dir(container) / "guest"


def log_dir(host: Host, container: str) -> Path:
    """The folder of the container's output."""
    return host.container_dir(container) / "log"


def write_whole(file: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new one, never a part."""
    draft = file.with_name(f".{file.name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        draft.write_text(text)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def make_guest(host: Host, container: str, owner: int, files: dict[str, str]) -> Path:
    """Make the guest folder anew: FIFOs owned by host id ``owner``, and ``files`` by name."""
    folder = guest_dir(host, container)
    remove_guest(host, container)
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    for name in (OUT, ERR, STATUS):
        os.mkfifo(folder / name, 0o600)
        os.chown(folder / name, owner, owner)
    (folder / "init").touch(0o644)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return folder


def remove_guest(host: Host, container: str) -> None:
    """Remove the guest folder; none is a success."""
    folder = guest_dir(host, container)
    if folder.exists():
        shutil.rmtree(folder)


def write_init(host: Host, container: str, record: InitRecord) -> None:
    """Write down which process is the container's init."""
    write_whole(host.container_dir(container) / "init.json", record.model_dump_json())


def read_init(host: Host, container: str) -> InitRecord | None:
    """The container's init as last written down, alive or not."""
    try:
        text = (host.container_dir(container) / "init.json").read_text()
    except FileNotFoundError:
        return None
    return InitRecord.model_validate_json(text)


def remove_init(host: Host, container: str) -> None:
    """Forget the init; none is a success."""
    (host.container_dir(container) / "init.json").unlink(missing_ok=True)


def write_exit(host: Host, container: str, record: ExitRecord) -> None:
    """Write down how the init ended; not when the container's folder is gone."""
    try:
        write_whole(host.container_dir(container) / "exit.json", record.model_dump_json())
    except FileNotFoundError:
        return


def read_exit(host: Host, container: str, process: Identity) -> ExitRecord | None:
    """How that very init ended, as far as the watch has seen it."""
    try:
        text = (host.container_dir(container) / "exit.json").read_text()
    except FileNotFoundError:
        return None
    record = ExitRecord.model_validate_json(text)
    return record if (record.pid, record.started_at) == (process.pid, process.started_at) else None


def expect_exit(host: Host, container: str) -> None:
    """Say that the platform is about to end this container, so that its end is no surprise to anybody.

    Call it before the signal of a stop; a driver's ``delete`` does it itself, and ``create`` takes it back.
    """
    if host.container_dir(container).is_dir():
        (host.container_dir(container) / "expected").touch()


def unexpect_exit(host: Host, container: str) -> None:
    """Take :func:`expect_exit` back: whatever ends now ends by itself."""
    (host.container_dir(container) / "expected").unlink(missing_ok=True)


def exit_expected(host: Host, container: str) -> bool:
    """Whether the platform is ending the container, or has removed it altogether."""
    folder = host.container_dir(container)
    return not folder.is_dir() or (folder / "expected").exists()


def watch_socket(host: Host) -> Path:
    """The datagram socket of the node's watch."""
    return host.state_dir / "run" / "watch.sock"


def nudge(host: Host, container: str) -> bool:
    """Tell the watch to look at a container at once. False when no watch runs: it looks at all when it starts."""
    path = watch_socket(host)
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender:
            # a socket's address holds 107 bytes, however long the state folder's name is
            sender.sendto(container.encode(), f"/proc/self/fd/{folder}/{path.name}")
            return True
    except (ConnectionRefusedError, FileNotFoundError, BlockingIOError):
        return False
    finally:
        os.close(folder)
