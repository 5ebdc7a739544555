"""A pool in a file: loop device, file system and mount, as one thing. For lab servers, which have no disk of their own.

The loop device is set to free itself when it is unmounted (``LO_FLAGS_AUTOCLEAR``), so a crash at any point leaves at
most a draft of the file, which the next call removes. ``loop(4)``, ``include/uapi/linux/loop.h``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostler.core.errors import Conflict, HostFailure
from hostler.core.units import MIB, format_size
from hostler.host import mounts
from hostler.host.failures import explained
from hostler.host.process import run

_CONTROL = Path("/dev/loop-control")
_MAJOR = 7
_GET_STATUS, _SET_CAPACITY, _CONFIGURE, _GET_FREE = 0x4C05, 0x4C07, 0x4C0A, 0x4C82
_AUTOCLEAR = 4
#: How often another program may snatch the free device that the kernel told us of.
_ATTEMPTS = 64

#: mkfs command, smallest size and mount options of each file system that a pool may have. One copy of btrfs's metadata:
#: a second one in the same file protects from nothing.
_KINDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "btrfs": (("mkfs.btrfs", "-q", "-m", "single", "-d", "single"), 128 * MIB, "discard=sync,metadata_ratio=8"),
    "ext4": (("mkfs.ext4", "-q", "-F", "-m", "0"), 16 * MIB, ""),
}


class _Info(ctypes.Structure):
    """``struct loop_info64``"""

    _fields_ = (
        ("device", ctypes.c_uint64),
        ("inode", ctypes.c_uint64),
        ("rdevice", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("sizelimit", ctypes.c_uint64),
        ("number", ctypes.c_uint32),
        ("encrypt_type", ctypes.c_uint32),
        ("encrypt_key_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("file_name", ctypes.c_char * 64),
        ("crypt_name", ctypes.c_char * 64),
        ("encrypt_key", ctypes.c_uint8 * 32),
        ("init", ctypes.c_uint64 * 2),
    )


class _Config(ctypes.Structure):
    """``struct loop_config``"""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _Info),
        ("reserved", ctypes.c_uint64 * 8),
    )


def ensure_pool(file: Path, size: int, at: Path, fstype: str = "btrfs") -> None:
    """A file system in the sparse ``file``, mounted at ``at``. Idempotent, also after a crash or reboot.

    ``size`` (bytes) counts only when the file is new. The file appears with a whole file system in it or not at all.
    Raises :class:`Conflict` when something else is mounted there, :class:`NoRoom`, :class:`HostFailure`.
    """
    words, smallest, options = _KINDS[fstype]
    if size < smallest:
        raise HostFailure(f"a {fstype} pool of {format_size(size)} is too small", hint=f"give it {format_size(smallest)} or more")
    with explained(f"make the pool {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        at.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            if not file.exists():
                _format(file, size, words)
            if not _holds(at, file):
                _mount(file, at, fstype, options)


def remove_pool(file: Path, at: Path) -> None:
    """Unmount the pool and delete its file with all it holds; none is a success. Raises :class:`HostFailure` when in use."""
    if not file.parent.exists():
        return
    with explained(f"remove the pool {file}"):
        with _alone(file):
            mounts.unmount(at)
            file.unlink(missing_ok=True)
            _draft(file).unlink(missing_ok=True)
        if at.exists():
            at.rmdir()


def device_of(file: Path) -> Path | None:
    """The loop device that is attached to ``file``, if any."""
    wanted = os.stat(file)
    for folder in Path("/sys/block").glob("loop*/loop"):
        device = Path("/dev") / folder.parent.name
        info = _status(device)
        if info is not None and (info.device, info.inode) == (wanted.st_dev, wanted.st_ino):
            return device
    return None


def mount_file(file: Path, at: Path, fstype: str, options: str = "") -> None:
    """Mount the file system in ``file`` on the folder ``at``, without device nodes, unless it is mounted there. Its loop device
    goes with its last mount. For one caller at a time. Raises :class:`Conflict`, :class:`HostFailure`."""
    with explained(f"mount {file}"):
        if not _holds(at, file):
            _mount(file, at, fstype, options)


def follow_size(file: Path) -> None:
    """Tell the loop device on ``file`` that the file has another size now. Raises :class:`OSError`."""
    device = device_of(file)
    if device is not None:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _SET_CAPACITY, 0)
        finally:
            os.close(handle)


def attached_below(folder: Path) -> list[tuple[Path, Path]]:
    """Loop devices on files in ``folder`` or below, each with its file; a file that was deleted is told by its last name."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = Path(entry.read_text().rstrip("\n").removesuffix(" (deleted)"))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                continue  # detached meanwhile
            raise
        if folder in file.parents:
            found.append((Path("/dev") / entry.parent.parent.name, file))
    return found


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One caller at a time, among threads and processes: two loop devices on one file would destroy it."""
    handle = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _format(file: Path, size: int, words: tuple[str, ...]) -> None:
    draft = _draft(file)
    draft.unlink(missing_ok=True)
    try:
        with draft.open("xb") as new:
            new.truncate(size)
        draft.chmod(0o600)
        run([*words, draft], timeout=120)
        with draft.open("rb") as made:
            os.fsync(made.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)


def _holds(at: Path, file: Path) -> bool:
    """Whether ``file`` is mounted at ``at``. Raises :class:`Conflict` when something else is."""
    there = mounts.at(at)
    if there is None:
        return False
    info = _status(Path(there.source)) if there.source.startswith("/dev/loop") else None
    wanted = os.stat(file)
    if info is None or (info.device, info.inode) != (wanted.st_dev, wanted.st_ino):
        raise Conflict(f"{there.source} is mounted on {at}, not {file}", hint="unmount it, or give the pool another folder")
    return True


def _mount(file: Path, at: Path, fstype: str, options: str) -> None:
    flags = mounts.Flags.NO_ATIME | mounts.Flags.NO_DEV
    attached = device_of(file)
    if attached is not None:  # mounted elsewhere as well: two devices on one file would be two views of one disk
        mounts.mount(attached, at, fstype, flags, options)
        return
    device, handle = _attach(file)
    try:
        mounts.mount(device, at, fstype, flags, options)
    finally:
        os.close(handle)  # when nothing is mounted the device is freed here


def _attach(file: Path) -> tuple[Path, int]:
    """A loop device on ``file`` and a descriptor that keeps it attached."""
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = _free_device()
            handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            if _configure(handle, backing, file):
                return device, handle
            os.close(handle)
    finally:
        os.close(backing)
    raise HostFailure("no loop device stays free", hint="losetup -a shows who uses them")


def _free_device() -> Path:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
    device = Path(f"/dev/loop{number}")
    if not device.exists():  # a /dev that the kernel does not fill
        os.mknod(device, 0o600 | stat.S_IFBLK, os.makedev(_MAJOR, number))
    return device


def _configure(handle: int, backing: int, file: Path) -> bool:
    """Attach; False when another program was faster. ``LOOP_CONFIGURE`` is Linux ≥ 5.8."""
    config = _Config(fd=backing, info=_Info(flags=_AUTOCLEAR, file_name=os.fsencode(file)[-63:]))
    try:
        fcntl.ioctl(handle, _CONFIGURE, config)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        os.close(handle)
        raise
    return True


def _status(device: Path) -> _Info | None:
    """What is attached to a loop device; None when nothing is, or the device has gone."""
    info = _Info()
    try:
        handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return None
        raise
    try:
        fcntl.ioctl(handle, _GET_STATUS, info)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    finally:
        os.close(handle)
    return info
