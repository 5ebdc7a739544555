"""Folders full of a tenant's files: removed and measured whatever their depth, names and number.

Nothing here recurses or builds long paths: a tenant can nest folders deeper than Python recurses and paths reach.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hostler.host.beneath import open_beneath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
#: What opening a folder says that was removed, replaced, or lies too deep.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV})


@contextmanager
def _opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    handle = os.open(name, _FOLDER, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


def remove_tree(folder: Path) -> None:
    """Delete a folder with all it holds; none is a success. Links are removed, never followed.

    Folders found inside are first moved up to the top, so that no path grows longer than two names. Interrupted, it
    can be run again. Raises :class:`OSError`.
    """
    if not folder.exists():
        return
    with _opened(folder) as top:
        count = _empty(top, top)
        while names := _names(top):
            for name in names:
                with _opened(name, top) as inside:
                    count = _empty(inside, top, count)
                os.rmdir(name, dir_fd=top)
    os.rmdir(folder)


def _names(folder: int) -> list[str]:
    """What is in a folder now. btrfs shows names made since only after a seek to the beginning."""
    os.lseek(folder, 0, os.SEEK_SET)
    return os.listdir(folder)


def _empty(folder: int, top: int, count: int = 0) -> int:
    """Delete what is in ``folder`` but folders that are not empty: those are moved to ``top`` under new names."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
        elif not _removed(name, folder) and folder != top:
            count = _move_up(name, folder, top, count)
    return count


def _removed(name: str, folder: int) -> bool:
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _move_up(name: str, folder: int, top: int, count: int) -> int:
    """``rename`` would replace an empty folder of the tenant's that happens to have the name, which is fine, and fail on
    another with ENOTEMPTY: then the next name is tried."""
    while True:
        count += 1
        try:
            os.rename(name, f"{count}", src_dir_fd=folder, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return count


class Below(NamedTuple):
    """What is in a folder: bytes on disk, a file with several names once; and files, folders and links, likewise."""

    bytes: int
    entries: int
    whole: bool
    """False: there is more."""


def measure(folder: Path, most: int) -> Below:
    """Measure what is in ``folder``.

    Stops after ``most`` entries, and leaves out folders whose path is too long: then it is the least that is there.
    Safe while the tenant is changing them. ENOENT when there is no such folder.
    """
    total, seen, linked = 0, 0, set[int]()
    twice = 0
    with _opened(folder) as top:
        pending = [b"."]
        while pending and seen < most:
            path = pending.pop()
            for name, found in _entries(top, path):
                seen += 1
                if stat.S_ISDIR(found.st_mode):
                    pending.append(path + b"/" + name)
                elif found.st_nlink > 1 and found.st_ino in linked:
                    twice += 1
                    continue
                elif found.st_nlink > 1:
                    linked.add(found.st_ino)
                total += found.st_blocks * 512
    return Below(total, seen - twice, not pending)


def bytes_below(folder: Path, most: int) -> int:
    """Bytes on disk of what is in ``folder``, as :func:`measure` counts them."""
    return measure(folder, most).bytes


def _entries(top: int, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """What is in a folder now; nothing when it has gone or was replaced by something else."""
    try:
        handle = open_beneath(top, path, _FOLDER)
    except OSError as error:
        if error.errno in _GONE:
            return
        raise
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield os.fsencode(entry.name), found
    finally:
        os.close(handle)
