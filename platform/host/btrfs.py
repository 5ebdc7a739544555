"""Subvolumes of btrfs, by ioctl: a snapshot takes a millisecond, where starting the ``btrfs`` program takes more.

Numbers and structures are those of ``include/uapi/linux/btrfs.h`` and ``btrfs_tree.h``; the layout of keys and items is
documented at https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html. Functions raise :class:`OSError` as
``ioctl(2)`` does. Names are one path component each. Quotas are in :mod:`hostler.host.qgroups`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

#: The inode of every subvolume's root folder (BTRFS_FIRST_FREE_OBJECTID).
_ROOT_INODE = 256
_LAST = 2**64 - 1
_NAME_MAX = 255

_WRITE, _READ = 1, 2
_READ_ONLY, _WITH_QGROUP, _BY_ID = 1 << 1, 1 << 2, 1 << 4
_ROOT_TREE = 1
_ROOT_ITEM, _ROOT_REF = 132, 156
#: ``struct file_handle`` of name_to_handle_at(2) for btrfs: its length, FILEID_BTRFS_WITHOUT_PARENT, inode, subvolume and
#: generation (0: any).
_HANDLE = struct.Struct("=IiQQI")
_HANDLE_KIND = 0x4D
#: ``struct btrfs_qgroup_inherit`` with one group and no limits.
_INHERIT = struct.Struct("=4Q5QQ")
_SEARCH_KEY = struct.Struct("=7Q4I4Q")
_SEARCH_HEADER = struct.Struct("=3Q2I")
_SEARCH_SIZE = 4096


def request(direction: int, number: int, size: int) -> int:
    """An ioctl number of btrfs: direction 1 is write, 2 read, 3 both."""
    return direction << 30 | size << 16 | 0x94 << 8 | number


def control(fd: int, code: int, argument: ctypes.Array[ctypes.c_char] | None = None) -> None:
    """``ioctl(2)`` without the interpreter's lock. ``fcntl.ioctl`` holds it for arguments above 1 KiB, and a snapshot
    waits for the disk. Raises :class:`OSError`."""
    while _libc.ioctl(fd, ctypes.c_ulong(code), argument) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


@contextmanager
def opened(folder: Path | str, parent: int | None = None) -> Iterator[int]:
    """A descriptor of a folder, relative to ``parent``, for the block's time. A link is not followed."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def fsid(fd: int) -> str:
    """UUID of the btrfs that ``fd`` is on. ENOTTY on any other file system."""
    info = ctypes.create_string_buffer(1024)
    control(fd, request(_READ, 31, 1024), info)  # BTRFS_IOC_FS_INFO
    return str(uuid.UUID(bytes=info.raw[16:32]))


def is_btrfs(folder: Path) -> bool:
    """Whether an existing folder is on btrfs."""
    with opened(folder) as fd:
        try:
            fsid(fd)
        except OSError as error:
            if error.errno == errno.ENOTTY:
                return False
            raise
    return True


def is_subvolume(folder: Path) -> bool:
    """Whether the path is a subvolume's root, on a folder known to be on btrfs; False when it does not exist."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_ino == _ROOT_INODE


def subvolume_id(fd: int) -> int:
    """Id of the subvolume that ``fd`` is in."""
    lookup = ctypes.create_string_buffer(struct.pack("=QQ", 0, _ROOT_INODE), 4096)
    control(fd, request(_READ | _WRITE, 18, 4096), lookup)  # BTRFS_IOC_INO_LOOKUP
    return int(struct.unpack_from("=Q", lookup)[0])


def uuids(fd: int) -> tuple[bytes, bytes]:
    """UUID of the subvolume that ``fd`` is in, and of the one that it was made from as a snapshot (zeros: none)."""
    info = ctypes.create_string_buffer(504)
    control(fd, request(_READ, 60, 504), info)  # BTRFS_IOC_GET_SUBVOL_INFO
    return info.raw[296:312], info.raw[312:328]


def create(parent: int, name: str, *, group: int | None = None) -> None:
    """An empty subvolume in the folder ``parent``, member of quota group ``group`` from its first moment. EEXIST when
    the name is taken."""
    inherit = _inherit(group)
    control(parent, request(_WRITE, 24, 4096), _arguments(name, inherit=inherit))  # BTRFS_IOC_SUBVOL_CREATE_V2


def snapshot(source: int, parent: int, name: str, *, group: int | None = None) -> None:
    """A writable snapshot of the subvolume ``source``, in the folder ``parent``, member of quota group ``group`` from its
    first moment. It is on disk when this returns. EEXIST when the name is taken."""
    inherit = _inherit(group)
    arguments = _arguments(name, fd=source, inherit=inherit)
    control(parent, request(_WRITE, 23, 4096), arguments)  # BTRFS_IOC_SNAP_CREATE_V2


def send(source: int, pipe: int, parent: int | None = None) -> None:
    """Write the read-only subvolume ``source`` as a stream (version 1) to a pipe's descriptor: all of it, or what is other
    than in the read-only subvolume of id ``parent``. Returns when all is written; EPIPE when the reader goes.

    https://btrfs.readthedocs.io/en/latest/dev/dev-send-stream.html
    """
    sources = (ctypes.c_uint64 * 1)(parent or 0)
    where = ctypes.addressof(sources) if parent else 0
    packed = struct.pack("=qQQQQI28x", pipe, 1 if parent else 0, where, parent or 0, 0, 0)
    control(source, request(_WRITE, 38, len(packed)), ctypes.create_string_buffer(packed, len(packed)))  # BTRFS_IOC_SEND


def set_read_only(fd: int, value: bool) -> None:
    """Make the subvolume read-only or writable."""
    flags = ctypes.create_string_buffer(struct.pack("=Q", _READ_ONLY if value else 0), 8)
    control(fd, request(_WRITE, 26, 8), flags)  # BTRFS_IOC_SUBVOL_SETFLAGS


def destroy(parent: int, name: str) -> list[int]:
    """Delete the subvolume ``name`` in the folder ``parent`` with all that are nested in it; their ids.

    A tenant can nest subvolumes, and make them read-only, which would otherwise keep them from being deleted. The
    names go at once; the kernel frees the space in the background. ENOENT when there is none.
    """
    with opened(name, parent) as fd:
        if os.fstat(fd).st_ino != _ROOT_INODE:
            raise OSError(errno.EINVAL, "not a subvolume", name)
        own = subvolume_id(fd)
    gone = [own, *_destroy_nested(parent, own)]
    control(parent, request(_WRITE, 63, 4096), _arguments(name))  # BTRFS_IOC_SNAP_DESTROY_V2
    return gone


def _destroy_nested(fd: int, top: int) -> list[int]:
    """Destroy all below subvolume ``top``, the deepest first; their ids."""
    order, open_ends = [], [top]
    while open_ends:
        parent = open_ends.pop()
        children = _children(fd, parent)
        if children:
            _make_writable(fd, parent)
        order += children
        open_ends += children
    for child in reversed(order):
        arguments = _arguments("", flags=_BY_ID)
        struct.pack_into("=Q", arguments, 56, child)
        control(fd, request(_WRITE, 63, 4096), arguments)
    return order


def _make_writable(fd: int, subvolume: int) -> None:
    """By file handle, since the path to it is the tenant's, and may be longer than a path can be."""
    handle = ctypes.create_string_buffer(_HANDLE.pack(20, _HANDLE_KIND, _ROOT_INODE, subvolume, 0), _HANDLE.size)
    inside = _libc.open_by_handle_at(fd, handle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if inside < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} (subvolume {subvolume})")
    try:
        set_read_only(inside, False)
    finally:
        os.close(inside)


def _children(fd: int, subvolume: int) -> list[int]:
    return [item.offset for item in search(fd, _ROOT_TREE, (subvolume, _ROOT_REF, 0), (subvolume, _ROOT_REF, _LAST))]


def exists(fd: int, subvolume: int) -> bool:
    """Whether a subvolume of that id exists, or is deleted and not yet cleaned away."""
    return bool(search(fd, _ROOT_TREE, (subvolume, _ROOT_ITEM, 0), (subvolume, _ROOT_ITEM, _LAST)))


def start_commit(fd: int) -> int:
    """Begin to write what changed to disk, and wake the cleaner that frees deleted subvolumes; returns at once with the
    transaction's number."""
    answer = ctypes.create_string_buffer(8)
    control(fd, request(_READ, 24, 8), answer)  # BTRFS_IOC_START_SYNC
    return int(struct.unpack("=Q", answer.raw)[0])


def commit(fd: int) -> None:
    """Commit the running transaction and wait for it: metadata and counters are up to date afterwards."""
    number = ctypes.create_string_buffer(struct.pack("=Q", start_commit(fd)), 8)
    control(fd, request(_WRITE, 22, 8), number)  # BTRFS_IOC_WAIT_SYNC


def sync(fd: int) -> None:
    """``syncfs(2)``: all data and metadata of the file system is on disk. Raises :class:`OSError`, also for what could
    not be written since ``fd`` was opened."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True)
class TreeItem:
    """One item of a b-tree."""

    object: int
    kind: int
    offset: int
    data: bytes


def search(fd: int, tree: int, first: tuple[int, int, int], last: tuple[int, int, int]) -> list[TreeItem]:
    """All items of ``tree`` with keys (object, kind, offset) from ``first`` to ``last``, of the kinds between those two."""
    found: list[TreeItem] = []
    while True:
        page = _search_page(fd, tree, first, last)
        found += [item for item in page if first[1] <= item.kind <= last[1]]
        if not page:
            return found
        following = _next_key((page[-1].object, page[-1].kind, page[-1].offset))
        if following is None or following > last:
            return found
        first = following


def _next_key(key: tuple[int, int, int]) -> tuple[int, int, int] | None:
    if key[2] < _LAST:
        return (key[0], key[1], key[2] + 1)
    return (key[0], key[1] + 1, 0) if key[1] < 255 else None


def _search_page(fd: int, tree: int, first: tuple[int, int, int], last: tuple[int, int, int]) -> list[TreeItem]:
    key = _SEARCH_KEY.pack(
        tree, first[0], last[0], first[2], last[2], 0, _LAST, first[1], last[1], 2**32 - 1, 0, 0, 0, 0, 0
    )
    buffer = ctypes.create_string_buffer(key, _SEARCH_SIZE)
    control(fd, request(_READ | _WRITE, 17, _SEARCH_SIZE), buffer)  # BTRFS_IOC_TREE_SEARCH
    raw, at, items = buffer.raw, _SEARCH_KEY.size, []
    for _ in range(struct.unpack_from("=I", raw, 64)[0]):
        _, number, offset, kind, length = _SEARCH_HEADER.unpack_from(raw, at)
        at += _SEARCH_HEADER.size
        items.append(TreeItem(number, kind, offset, raw[at : at + length]))
        at += length
    return items


def _inherit(group: int | None) -> ctypes.Array[ctypes.c_char] | None:
    """``struct btrfs_qgroup_inherit``, to be a member of ``group``."""
    return None if group is None else ctypes.create_string_buffer(_INHERIT.pack(0, 1, *[0] * 7, group), _INHERIT.size)


def _arguments(
    name: str, *, fd: int = 0, flags: int = 0, inherit: ctypes.Array[ctypes.c_char] | None = None
) -> ctypes.Array[ctypes.c_char]:
    """``struct btrfs_ioctl_vol_args_v2``. ``inherit`` must live as long as this is used."""
    plain = os.fsencode(name)
    if b"/" in plain or b"\0" in plain or len(plain) > _NAME_MAX:
        raise OSError(errno.EINVAL, "not a single path component", name)
    union = (0, 0, 0, 0)
    if inherit is not None:
        flags, union = flags | _WITH_QGROUP, (_INHERIT.size, ctypes.addressof(inherit), 0, 0)
    return ctypes.create_string_buffer(struct.pack("=qQQ4Q", fd, 0, flags, *union) + plain, 4096)
