"""The door to network namespaces: enter one for a moment, make and delete named ones, list them.

Named ones are bind mounts in ``/run/netns``, as ``ip-netns(8)`` makes and reads them. Nothing forks: a namespace is
unshared in a thread that ends at once, and entering one changes the calling thread alone (``setns(2)``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hostler.core.errors import HostFailure, Invalid
from hostler.host import mountinfo

FOLDER = Path("/run/netns")

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000  # sched.h
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 4096, 16384, 1 << 20, 2  # sys/mount.h
#: Of the calling thread, whatever thread that is.
_OWN = "/proc/thread-self/ns/net"
_HINT = "the worker must be root, with CAP_SYS_ADMIN over the namespace"

_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> Path:
    """Where the namespace ``name`` is mounted, made or not. Raises :class:`Invalid` for a name that is no file name."""
    if not name or "/" in name or name in (".", ".."):
        raise Invalid(f"{name!r} cannot be a network namespace's name", hint="a file name without slashes")
    return FOLDER / name


def of_process(pid: int) -> Path:
    """The namespace that a process is in; gone when the process is."""
    return Path(f"/proc/{pid}/ns/net")


def own() -> Path:
    """The calling thread's own namespace."""
    return Path(_OWN)


@contextlib.contextmanager
def opened(where: Path) -> Iterator[int]:
    """A descriptor of a namespace, which keeps it alive. Raises :class:`HostFailure` when there is none."""
    try:
        handle = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostFailure(
            f"no network namespace at {where}: {error.strerror}", hint="its process or its server's namespace has ended", code="no_netns"
        ) from error
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def entered(where: Path | int) -> Iterator[None]:
    """The calling thread is in the namespace ``where`` (a path or a descriptor) for the block, and back afterwards.

    ``/proc/sys/net`` and new sockets are then those of the namespace; sockets made before keep theirs.
    """
    if isinstance(where, Path):
        with opened(where) as handle, entered(handle):
            yield
        return
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(where)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(handle: int) -> None:
    if _libc.setns(handle, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise HostFailure(f"cannot enter a network namespace: {os.strerror(number)}", hint=_HINT)


def inside_new(work: Callable[[], _T]) -> _T:
    """What ``work`` returns, run in a thread of its own in a new, empty network namespace.

    The namespace lives on only where ``work`` bound it or leaves a process or descriptor in it. What ``work`` raises is raised.
    """
    outcome: list[_T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise HostFailure(f"cannot make a network namespace: {os.strerror(number)}", hint=_HINT)
            outcome.append(work())
        except BaseException as error:  # carried over to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def create(name: str) -> Path:
    """A namespace that lives until :func:`delete`, with nothing in it but ``lo``, down. One that exists is left as it is."""
    path = path_of(name)
    if exists(name):
        return path
    _prepare_folder()
    path.touch(mode=0o444)
    try:
        inside_new(lambda: _mount(_OWN, path, _MS_BIND))
    except BaseException:
        delete(name)
        raise
    return path


def name_own(name: str) -> Path:
    """Give the calling thread's own namespace a name, by which other processes can enter it. One that exists is left as it is."""
    path = path_of(name)
    if exists(name):
        return path
    _prepare_folder()
    path.touch(mode=0o444)
    _mount(_OWN, path, _MS_BIND)
    return path


def exists(name: str) -> bool:
    """Whether a namespace of this name is there (a file without a mount, of a creator that died, is none)."""
    return any(mount.kind == "nsfs" for mount in mountinfo.read() if mount.point == path_of(name))


def delete(name: str) -> None:
    """Take the name away; the namespace ends with its last process. None is a success."""
    path = path_of(name)
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:  # once for each time it was mounted over
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):  # not mounted, not there
        raise HostFailure(f"cannot unmount {path}: {os.strerror(number)}", hint=_HINT)
    path.unlink(missing_ok=True)


def names(prefix: str = "") -> list[str]:
    """Names of the namespaces that begin with ``prefix``, sorted; left-over files without a namespace included."""
    if not FOLDER.is_dir():
        return []
    return sorted(entry.name for entry in FOLDER.iterdir() if entry.name.startswith(prefix))


def _prepare_folder() -> None:
    """``/run/netns`` as a shared mount: so that a name deleted here is gone in other mount namespaces, too."""
    FOLDER.mkdir(mode=0o755, exist_ok=True)
    if not any(mount.point == FOLDER for mount in mountinfo.read()):
        _mount(str(FOLDER), FOLDER, _MS_BIND | _MS_REC)
    _mount("none", FOLDER, _MS_SHARED | _MS_REC)


def _mount(source: str, target: Path, flags: int) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), b"none", ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise HostFailure(f"cannot mount {target}: {os.strerror(number)}", hint=_HINT)
