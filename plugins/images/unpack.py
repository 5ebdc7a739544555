"""Writing the entries of a hostile archive below one folder, and nowhere else.

Two rules make it safe. The folder of an entry is opened by ``openat2(2)`` with RESOLVE_IN_ROOT: the kernel itself
resolves links and ``..`` as if the target were the root, so links made by earlier entries lead nowhere else
(they are followed, as in a merged /usr). The last component is only ever *made*, with O_EXCL and
relative to that descriptor: what is there is removed first and never opened or followed.

Whoever gives the target folder must keep it below one that is closed to the host's users: it will hold
set-uid files.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from hostler.core.errors import Invalid
from hostler.host.beneath import open_beneath, open_in_root
from hostler_plugins.images.rules import (
    DEPTH,
    NAME_MAX,
    PATH_MAX,
    check_allowed,
    kept_xattr,
    parts_of,
    too_deep,
    typed,
)
from hostler_plugins.images.stream import CHUNK, Budget, Stream, damaged
from hostler_plugins.images.tar import Entry, Kind, entries, shown

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

_Made = TypeVar("_Made")


def unpack_tar(stream: Stream, tree: Tree, *, end_required: bool = True) -> None:
    """Add all entries of a tar to ``tree``. Raises what :meth:`Tree.add` does."""
    for entry in entries(stream, end_required=end_required):
        tree.add(entry, stream)


class Tree:
    """A root file system being written, by one thread. Use as a context manager; call :meth:`finish` at the end."""

    def __init__(self, into: Path, budget: Budget) -> None:
        self._budget = budget
        self._root = os.open(into, _FOLDER | os.O_CLOEXEC)
        self._prefix = _path_of(self._root)
        self._parent_name: bytes | None = None
        self._parent = -1
        self._parent_path = b""
        self._times: dict[bytes, int] = {}
        self._fresh: set[bytes] | None = None
        self._cleared: set[bytes] = set()
        os.fchmod(self._root, 0o755)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._forget_parent()
        os.close(self._root)

    def begin_layer(self) -> None:
        """From here on remember what is made, so that :meth:`whiteout` and :meth:`opaque` spare it."""
        self._forget_parent()
        self._fresh = set()
        self._cleared = set()

    def add(self, entry: Entry, stream: Stream) -> None:
        """Make one entry, its data taken from the stream.

        What is there by the name gives way, but a folder that meets a folder. Raises :class:`Invalid` for
        what an image may not hold, :class:`NoRoom` on a full disk.
        """
        parts = parts_of(entry.name)
        check_allowed(entry)
        self._budget.take_entry()
        self._budget.take_bytes(entry.size)
        try:
            if parts:
                self._make(parts, entry, stream)
            elif entry.kind is Kind.FOLDER:
                self._times[b""] = entry.mtime
                _dress(self._root, entry)
            else:
                raise damaged(f"its root is a {entry.kind.value}")
        except OSError as error:
            raise typed(error, entry.name) from error

    def whiteout(self, parts: list[bytes]) -> None:
        """Remove what lower layers have by this name. Nothing there is fine."""
        folder = self._existing(parts[:-1])
        if folder is not None:
            self._clear(folder, [parts[-1]], b"/".join(parts))

    def opaque(self, parts: list[bytes]) -> None:
        """Remove all that lower layers have in this folder."""
        folder = self._existing(parts)
        if folder is not None:
            self._clear(folder, None, b"/".join(parts))

    def has_folder(self, name: bytes) -> bool:
        """Whether a folder, or a link to one, is there."""
        folder = self._existing([name])
        if folder is not None:
            os.close(folder)
        return folder is not None

    def finish(self) -> None:
        """Set the folders' times, which adding to them changed."""
        for path, mtime in self._times.items():
            try:
                fd = open_beneath(self._root, path, _FOLDER)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later entry took its place
                raise typed(error, path) from error
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    # --- the folder that an entry lies in ---

    def _existing(self, parts: list[bytes]) -> int | None:
        """A descriptor of a folder of the tree, or None when there is none by this name."""
        try:
            return open_in_root(self._root, b"/".join(parts), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise typed(error, b"/".join(parts)) from error

    def _enter(self, parts: list[bytes]) -> int:
        """The folder as a descriptor that stays ours; made, with the folders on the way, where it is missing."""
        name = b"/".join(parts)
        if name == self._parent_name:
            return self._parent
        self._forget_parent()
        folder = self._existing(parts)
        if folder is None:
            folder = self._make_folders(parts)
        self._parent, self._parent_name = folder, name
        self._parent_path = _path_below(self._prefix, folder)
        if self._parent_path.count(b"/") + 2 > DEPTH or len(self._parent_path) + NAME_MAX > PATH_MAX:
            raise too_deep(name)
        if self._fresh is not None:
            path = self._parent_path
            while path and path not in self._fresh:
                self._fresh.add(path)
                path = path.rpartition(b"/")[0]
        return folder

    def _make_folders(self, parts: list[bytes]) -> int:
        folder = os.dup(self._root)
        for count, part in enumerate(parts, 1):
            try:
                below = self._existing(parts[:count])
                if below is None:
                    self._budget.take_entry()
                    os.mkdir(part, 0o755, dir_fd=folder)
                    # Not left to umask and to a set-gid folder above.
                    os.chown(part, 0, 0, dir_fd=folder, follow_symlinks=False)
                    os.chmod(part, 0o755, dir_fd=folder)
                    below = open_beneath(folder, part, _FOLDER)
            finally:
                os.close(folder)
            folder = below
        return folder

    def _forget_parent(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
        self._parent, self._parent_name = -1, None

    # --- making ---

    def _make(self, parts: list[bytes], entry: Entry, stream: Stream) -> None:
        parent, name = self._enter(parts[:-1]), parts[-1]
        path = _join(self._parent_path, name)
        match entry.kind:
            case Kind.FILE:
                self._make_file(parent, name, entry, stream)
            case Kind.FOLDER:
                self._make_folder(parent, name, entry)
                self._times[path] = entry.mtime
            case Kind.SYMLINK:
                self._anew(parent, name, lambda: os.symlink(entry.link, name, dir_fd=parent))
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
            case Kind.HARDLINK:
                self._make_link(parent, name, path, entry)
            case Kind.FIFO:
                self._anew(parent, name, lambda: os.mkfifo(name, 0o600, dir_fd=parent))
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                os.chmod(name, entry.mode, dir_fd=parent)
                os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
            case _:
                raise AssertionError(f"unreachable: {entry.kind}")
        if self._fresh is not None:
            self._fresh.add(path)

    def _anew(self, parent: int, name: bytes, make: Callable[[], _Made]) -> _Made:
        """Make what must not be there yet; what is gives way."""
        try:
            return make()
        except FileExistsError:
            self._remove(parent, name)
            return make()

    def _make_file(self, parent: int, name: bytes, entry: Entry, stream: Stream) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = self._anew(parent, name, lambda: os.open(name, flags, 0o600, dir_fd=parent))
        try:
            _write(fd, entry, stream)
            _dress(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _make_folder(self, parent: int, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = open_beneath(parent, name, _FOLDER)
        try:
            _dress(fd, entry)
        finally:
            os.close(fd)

    def _make_link(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        parts = parts_of(entry.link)
        folder = self._existing(parts[:-1]) if parts else None
        if folder is None:
            raise _no_target(entry)
        try:
            target = _join(_path_below(self._prefix, folder), parts[-1])
            if target == path:
                os.stat(name, dir_fd=parent, follow_symlinks=False)
                return
            source = parts[-1]
            self._anew(
                parent,
                name,
                lambda: os.link(source, name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False),
            )
        except FileNotFoundError as error:
            raise _no_target(entry) from error
        finally:
            os.close(folder)

    # --- removing ---

    def _remove(self, parent: int, name: bytes) -> None:
        """Remove a file or a whole folder, following nothing."""
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=parent)
        # The open folder may have been reached through what is gone: look its name up again.
        self._parent_name = None

    def _clear(self, folder: int, names: list[bytes] | None, shown_as: bytes) -> None:
        """Remove from a folder, whose descriptor is closed, what lower layers have by these names, or all of it."""
        try:
            path = _path_below(self._prefix, folder)
            # Once a layer: a second time there is nothing of a lower layer left, and walking it could be made costly.
            if names is None and path + b"/" in self._cleared:
                return
            for name in self._children(folder) if names is None else names:
                if (below := _join(path, name)) not in self._cleared:
                    self._cleared.add(below)
                    self._remove_lower(folder, below, name)
            if names is None:
                self._cleared.add(path + b"/")
        except OSError as error:
            raise typed(error, shown_as) from error
        finally:
            os.close(folder)

    @staticmethod
    def _children(folder: int) -> list[bytes]:
        return [os.fsencode(name) for name in os.listdir(folder)]

    def _remove_lower(self, parent: int, path: bytes, name: bytes) -> None:
        """Remove ``name`` in ``parent``, but for what the present layer made."""
        if self._fresh is None or path not in self._fresh:
            with suppress(FileNotFoundError):
                self._remove(parent, name)
            return
        try:
            folder = open_beneath(parent, name, _FOLDER)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                return
            raise
        try:
            for child in self._children(folder):
                self._remove_lower(folder, _join(path, child), child)
        finally:
            os.close(folder)


def _no_target(entry: Entry) -> Invalid:
    return damaged(f"{shown(entry.name)} is a hard link to {shown(entry.link)}, which is not there")


def _write(fd: int, entry: Entry, stream: Stream) -> None:
    """Write the data; what a sparse map leaves out stays a hole."""
    for offset, length in entry.segments if entry.segments is not None else [(0, entry.size)]:
        while length:
            data = stream.take(min(length, CHUNK))
            if not data:
                raise damaged(f"it ends in the middle of {shown(entry.name)}")
            length -= len(data)
            while data:
                written = os.pwrite(fd, data, offset)
                offset += written
                data = data[written:]
    if entry.segments is not None:
        os.ftruncate(fd, entry.size)


def _dress(fd: int, entry: Entry) -> None:
    """Owner, mode and attributes, in this order: a change of owner clears set-uid and capabilities."""
    os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, entry.mode)
    for key, value in entry.xattrs.items():
        if (kept := kept_xattr(entry, key, value)) is not None:
            os.setxattr(fd, key, kept)


def _path_of(fd: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % fd)


def _path_below(prefix: bytes, fd: int) -> bytes:
    """Where an open folder lies, relative to the tree's root; empty for the root."""
    try:
        path = _path_of(fd)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Invalid(
                "the archive's folders lie too deep in each other",
                hint=f"paths may have {PATH_MAX} bytes",
                code="image_unsafe",
            ) from error
        raise
    if path == prefix:
        return b""
    if not path.startswith(prefix.rstrip(b"/") + b"/"):
        raise AssertionError(f"the kernel opened {path!r}, which is not below {prefix!r}")
    return path[len(prefix.rstrip(b"/")) + 1 :]


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name
