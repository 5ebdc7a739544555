"""Files and folders that appear under their name whole or not at all.

A draft lies beside its target, on the same file system, as ``.<name>.<random>.draft``. Whoever writes it holds a lock on it
(``flock(2)``), so a draft without a lock is what a killed writer left, and may be removed by anybody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostler.core.errors import Conflict, HostFailure, HostlerError, NoRoom, NotFound

_DRAFT = re.compile(r"\..+\.[0-9a-f]{16}\.draft")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def told(error: OSError, where: Path) -> HostlerError:
    """The typed error of a file system's refusal: :class:`NoRoom`, :class:`NotFound` or :class:`HostFailure`."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return NoRoom(f"there is no room left at {where.parent}: {reason}", hint="remove old checkpoints, or give the folder more space")
    if error.errno == errno.ENOENT:
        return NotFound(f"{where} does not exist, or its folder does not", hint="look at the path, and make the folder")
    return HostFailure(f"{where}: {reason}", hint="look at the file system and its permissions on this server")


@contextmanager
def told_of(where: Path) -> Iterator[None]:
    """Turns each :class:`OSError` into its typed error."""
    try:
        yield
    except OSError as error:
        raise told(error, where) from error


def _draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.draft")


def _locked(handle: int) -> bool:
    """Take the lock if nobody has it, and see that nobody removed the draft before."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(handle).st_nlink > 0


def _new_file(target: Path) -> tuple[Path, int]:
    """A locked draft. Between making and locking it somebody may have taken it for an old one: then another is made."""
    while True:
        draft = _draft_of(target)
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if _locked(handle):
            return draft, handle
        os.close(handle)


@dataclass(frozen=True)
class Draft:
    """A file that has no name of its own yet."""

    path: Path
    handle: int

    def appear(self, target: Path, *, replace: bool = False) -> None:
        """Sync the file and give it its name, in the same folder; it is on the disk then, name and all.

        Without ``replace`` a target that exists is :class:`Conflict`: of two writers one wins.
        """
        with told_of(target):
            os.fsync(self.handle)
            _publish(self.path, target, replace=replace)
            _sync_folder(target.parent)


@contextmanager
def file_draft(beside: Path) -> Iterator[Draft]:
    """An empty file, mode 0600, in the folder of ``beside``; unless it has appeared at the end, nothing is left of it."""
    with told_of(beside):
        path, handle = _new_file(beside)
    try:
        yield Draft(path, handle)
    finally:
        with told_of(beside):
            path.unlink(missing_ok=True)
            os.close(handle)


def check_absent(target: Path) -> None:
    """Raises :class:`Conflict` at once for what :meth:`Draft.appear` would refuse at the end."""
    if os.path.lexists(target):
        raise _exists(target)


def _publish(draft: Path, target: Path, *, replace: bool) -> None:
    if replace:
        os.rename(draft, target)
        return
    try:
        os.link(draft, target, follow_symlinks=False)
    except FileExistsError as error:
        raise _exists(target) from error


def _exists(target: Path) -> Conflict:
    return Conflict(f"{target} exists already", hint="a checkpoint is never written over: remove it first, or take another name")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def folder_draft(target: Path) -> Iterator[int]:
    """A handle of an empty folder that becomes ``target`` at the end, mode 0700; on any failure it is removed.

    The target must not exist, or be an empty folder and no mount point; else :class:`Conflict`. Not synced: what is
    unpacked can be unpacked again.
    """
    with told_of(target):
        draft, handle = _new_folder(target)
    try:
        yield handle
        with told_of(target):
            _move_folder(draft, target)
    except BaseException:
        with told_of(target):
            shutil.rmtree(draft)
        raise
    finally:
        os.close(handle)


def _new_folder(target: Path) -> tuple[Path, int]:
    """As :func:`_new_file`."""
    while True:
        draft = _draft_of(target)
        os.mkdir(draft, 0o700)
        handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if _locked(handle):
            return draft, handle
        os.close(handle)


def _move_folder(draft: Path, target: Path) -> None:
    try:
        os.rename(draft, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EBUSY):
            raise Conflict(f"{target} exists already and is no empty folder", hint="name a folder that does not exist yet") from error
        raise


def clean_drafts(folder: Path) -> list[str]:
    """Remove the drafts beneath ``folder`` that no living writer holds; their names."""
    removed = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if _DRAFT.fullmatch(name) and _abandoned(path):
            removed.append(name)
    return removed


def _abandoned(path: Path) -> bool:
    """Remove a draft if nobody holds it; whether it was removed here."""
    if path.is_symlink():  # none of ours, whatever its name
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:  # its writer was done just now
        return False
    try:
        if not _locked(handle):
            return False
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)
