"""Doing what a btrfs send stream says, confined to one subvolume.

Whoever wrote the stream is taken for an enemy. Each path is resolved by the kernel beneath the subvolume, without following
any link (:mod:`hostler.host.beneath`); what no tenant can make is refused: device nodes, owners above 65535. Attributes that
are a host's own business (``trusted.*``, labels) are left out, as images' are.

Data that the image has at the same place of the same path shares the image's blocks: the volume is not charged for it, as it was
not on the server it comes from.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hostler.host import files
from hostler.host.beneath import open_beneath
from hostler_plugins.storage.frames import damaged
from hostler_plugins.storage.sendstream import Command, Field, Kind

_LAST_ID = 65535
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_KEPT_XATTRS = (b"user.", b"system.posix_acl_", b"security.capability", b"btrfs.compression")
_BLOCK = 4096


@dataclass
class _Shared:
    """A run of blocks that the image has too, not yet shared."""

    path: bytes
    start: int
    end: int


class Applier:
    """Applies one stream, by one thread. ``root`` is a descriptor of the writable subvolume, ``base`` of the one that a
    difference is to, ``image`` of the image that may have the same data. Use as a context manager.

    Errors are :class:`Invalid` and :class:`OSError`; the subvolume is to be thrown away then.
    """

    def __init__(self, root: int, base: int | None = None, image: int | None = None) -> None:
        self._root, self._base, self._image = root, base, image
        self._uuids: dict[bytes, int] = {}
        self._open: tuple[bytes, int] | None = None
        self._image_open: tuple[bytes, int | None] | None = None
        self._shared: _Shared | None = None

    def __enter__(self) -> Applier:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self, command: Command) -> None:
        """The first command: which subvolume this is. Raises :class:`Invalid` when it is a difference and should not be,
        or the other way round."""
        if command.kind is not (Kind.SUBVOLUME if self._base is None else Kind.SNAPSHOT):
            raise damaged("it does not begin as it should")
        self._uuids[command.data(Field.UUID)] = self._root
        if self._base is not None:
            self._uuids[command.data(Field.CLONE_UUID)] = self._base

    def apply(self, command: Command) -> None:
        """Any further command."""
        if command.kind is not Kind.WRITE:
            self._flush()
        if command.kind not in (Kind.WRITE, Kind.UPDATE_EXTENT):
            self._close()
        try:
            action = _ACTIONS[command.kind]
        except KeyError:
            raise damaged(f"a command {command.kind.name.lower()} is out of place") from None
        action(self, command)

    def finish(self) -> None:
        """The end of the stream."""
        self._flush()
        self._close()

    # --- making and unmaking names

    def _file(self, command: Command) -> None:
        with self._place(command.path()) as (folder, name):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))

    def _folder(self, command: Command) -> None:
        with self._place(command.path()) as (folder, name):
            os.mkdir(name, 0o700, dir_fd=folder)

    def _node(self, command: Command) -> None:
        mode = command.number(Field.MODE)
        if not stat.S_ISCHR(mode) or command.number(Field.RDEV) != 0:  # 0 is a whiteout: anybody may make one
            raise damaged("it makes a device")
        self._make(command, stat.S_IFCHR)

    def _fifo(self, command: Command) -> None:
        self._make(command, stat.S_IFIFO)

    def _socket(self, command: Command) -> None:
        self._make(command, stat.S_IFSOCK)

    def _make(self, command: Command, kind: int) -> None:
        with self._place(command.path()) as (folder, name):
            os.mknod(name, kind | 0o600, 0, dir_fd=folder)

    def _symlink(self, command: Command) -> None:
        target = command.data(Field.PATH_LINK)
        if b"\0" in target or not 0 < len(target) <= 4096:
            raise damaged("a link leads nowhere")
        with self._place(command.path()) as (folder, name):
            os.symlink(target, name, dir_fd=folder)

    def _rename(self, command: Command) -> None:
        with self._place(command.path()) as (folder, name), self._place(command.path(Field.PATH_TO)) as (to, new):
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=to)

    def _link(self, command: Command) -> None:
        with self._place(command.path(Field.PATH_LINK)) as (folder, name), self._place(command.path()) as (to, new):
            os.link(name, new, src_dir_fd=folder, dst_dir_fd=to, follow_symlinks=False)

    def _unlink(self, command: Command) -> None:
        with self._place(command.path()) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def _rmdir(self, command: Command) -> None:
        with self._place(command.path()) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    # --- what is in them

    def _write(self, command: Command) -> None:
        path, at, data = command.path(), command.number(Field.OFFSET), command.data(Field.DATA)
        handle = self._writable(path)
        if not data:
            return
        if self._in_image(path, at, data):
            self._share(path, at, len(data))
            return
        self._flush()
        done = 0
        while done < len(data):
            done += os.pwrite(handle, memoryview(data)[done:], at + done)

    def _in_image(self, path: bytes, at: int, data: bytes) -> bool:
        """Whether the image has these blocks; only whole ones can be shared, but for the file's last."""
        if self._image is None or at % _BLOCK:
            return False
        if self._image_open is None or self._image_open[0] != path:
            self._close_image()
            self._image_open = (path, _opened_if_there(self._image, path))
        handle = self._image_open[1]
        if handle is None or os.pread(handle, len(data), at) != data:
            return False
        return len(data) % _BLOCK == 0 or os.fstat(handle).st_size == at + len(data)

    def _share(self, path: bytes, at: int, length: int) -> None:
        if self._shared is not None and (self._shared.path, self._shared.end) == (path, at):
            self._shared.end += length
            return
        self._flush()
        self._shared = _Shared(path, at, at + length)

    def _flush(self) -> None:
        run, self._shared = self._shared, None
        if run is None:
            return
        if self._image_open is None or self._image_open[1] is None or self._open is None or self._open[0] != run.path:
            raise AssertionError("the files of a run are open until it is shared")
        files.share_range(self._image_open[1], self._open[1], run.start, run.end - run.start, run.start)

    def _clone(self, command: Command) -> None:
        source = self._uuids.get(command.data(Field.CLONE_UUID))
        if source is None:
            raise damaged("it takes data from a subvolume that is not its own")
        start, length, at = (command.number(field) for field in (Field.CLONE_OFFSET, Field.CLONE_LENGTH, Field.OFFSET))
        with self._opened(command.path(Field.CLONE_PATH), _READ, source) as found, self._opened(command.path(), _WRITE) as target:
            files.share_range(found, target, start, length, at)

    def _truncate(self, command: Command) -> None:
        with self._opened(command.path(), _WRITE) as handle:
            os.ftruncate(handle, command.number(Field.SIZE))

    def _update_extent(self, command: Command) -> None:
        raise damaged("it comes without data")

    # --- what is said of them

    def _chmod(self, command: Command) -> None:
        mode = command.number(Field.MODE)
        if mode > 0o7777:
            raise damaged("a mode is no mode")
        with self._opened(command.path(), os.O_PATH) as handle:
            os.chmod(f"/proc/self/fd/{handle}", mode)

    def _chown(self, command: Command) -> None:
        owner, group = command.number(Field.UID), command.number(Field.GID)
        if owner > _LAST_ID or group > _LAST_ID:
            raise damaged("a file's owner is not one of a container's")
        with self._itself(command.path()) as (folder, name):
            os.chown(name, owner, group, dir_fd=folder, follow_symlinks=False)

    def _times(self, command: Command) -> None:
        times = (command.nanoseconds(Field.ATIME), command.nanoseconds(Field.MTIME))
        with self._itself(command.path()) as (folder, name):
            os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False)

    def _set_xattr(self, command: Command) -> None:
        name, path = command.data(Field.XATTR_NAME), command.path()
        if name.startswith(_KEPT_XATTRS) and b"\0" not in name:
            with self._opened(path, os.O_PATH) as handle:
                os.setxattr(f"/proc/self/fd/{handle}", name, command.data(Field.XATTR_DATA))

    def _remove_xattr(self, command: Command) -> None:
        name, path = command.data(Field.XATTR_NAME), command.path()
        if name.startswith(_KEPT_XATTRS) and b"\0" not in name:
            with self._opened(path, os.O_PATH) as handle:
                os.removexattr(f"/proc/self/fd/{handle}", name)

    # --- finding them

    @contextmanager
    def _place(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The folder that holds the last name of ``path``, and that name."""
        folder, _, name = path.rpartition(b"/")
        if not name:
            raise damaged("it changes the root itself")
        with self._opened(folder, _FOLDER) as handle:
            yield handle, name

    @contextmanager
    def _itself(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """As :meth:`_place`, but the root may be meant."""
        if not path:
            yield self._root, b"."
            return
        with self._place(path) as found:
            yield found

    @contextmanager
    def _opened(self, path: bytes, flags: int, root: int | None = None) -> Iterator[int]:
        handle = open_beneath(self._root if root is None else root, path, flags)
        try:
            yield handle
        finally:
            os.close(handle)

    def _writable(self, path: bytes) -> int:
        """The file that is being written, kept open: its data comes in many commands."""
        if self._open is None or self._open[0] != path:
            self._flush()
            self._close()
            self._open = (path, open_beneath(self._root, path, _WRITE))
        return self._open[1]

    def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            os.close(opened[1])
        self._close_image()

    def _close_image(self) -> None:
        opened, self._image_open = self._image_open, None
        if opened is not None and opened[1] is not None:
            os.close(opened[1])


def _opened_if_there(root: int, path: bytes) -> int | None:
    """A regular file of the image, or None. A folder on the way may be a link, or missing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            handle = open_beneath(root, path, _READ)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return None
            raise
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    return None


_ACTIONS: dict[Kind, Callable[[Applier, Command], None]] = {
    Kind.FILE: Applier._file,
    Kind.FOLDER: Applier._folder,
    Kind.NODE: Applier._node,
    Kind.FIFO: Applier._fifo,
    Kind.SOCKET: Applier._socket,
    Kind.SYMLINK: Applier._symlink,
    Kind.RENAME: Applier._rename,
    Kind.LINK: Applier._link,
    Kind.UNLINK: Applier._unlink,
    Kind.RMDIR: Applier._rmdir,
    Kind.SET_XATTR: Applier._set_xattr,
    Kind.REMOVE_XATTR: Applier._remove_xattr,
    Kind.WRITE: Applier._write,
    Kind.CLONE: Applier._clone,
    Kind.TRUNCATE: Applier._truncate,
    Kind.UPDATE_EXTENT: Applier._update_extent,
    Kind.CHMOD: Applier._chmod,
    Kind.CHOWN: Applier._chown,
    Kind.TIMES: Applier._times,
}
