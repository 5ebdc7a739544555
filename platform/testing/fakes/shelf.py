"""Things in folders: each made whole or not at all, one worker on each at a time. What all fake drivers keep their state in."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostler.contracts.driver import Item
from hostler.core.errors import Invalid
from hostler.host.failures import explained

_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}", re.ASCII)
_DRAFT = ".draft-"
_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100


def checked(name: str) -> str:
    """``name``, which becomes a file's. Raises :class:`Invalid`."""
    if not _ID.fullmatch(name):
        raise Invalid(f"{name[:80]!r} cannot be an id", hint="ids are 1 to 63 lower-case letters, digits, dots and hyphens")
    return name


class Shelf:
    """Folders of one kind. ``record`` of a thing is a dictionary in a file inside it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_dir()

    def path(self, name: str) -> Path:
        """The thing's folder. Raises :class:`Invalid` for what is no id."""
        return self.folder / checked(name)

    def names(self) -> list[str]:
        """All whole things."""
        return [name for name in self._listed() if not name.startswith(".")]

    def inventory(self) -> list[Item]:
        """Whole things, and drafts that a killed worker left."""
        items = [Item(kind=self.kind, name=name, owner=name) for name in self.names()]
        drafts = [name for name in self._listed() if name.startswith(_DRAFT)]
        return items + [Item(kind="draft", name=name, owner=name.removeprefix(_DRAFT).rpartition("-")[0]) for name in drafts]

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Nobody else works on the thing meanwhile, in no thread and no process. What a killed one left is swept first."""
        checked(name)
        locks = self.folder.with_name(f".locks-{self.folder.name}")
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.sweep(name)
            yield

    def sweep(self, name: str) -> None:
        """Remove what a killed worker left of the thing, and of those named ``name`` and a dot. Only while it is :meth:`alone`."""
        for draft in self._listed():
            whose = draft.removeprefix(_DRAFT).rpartition("-")[0]
            if draft.startswith(_DRAFT) and (whose == name or whose.startswith(f"{name}.")):
                shutil.rmtree(self.folder / draft)

    @contextmanager
    def made(self, name: str) -> Iterator[Path]:
        """An empty folder that becomes the thing, in place of one there may be; after an error nothing has changed."""
        target = self.path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self._draft(name)
        draft.mkdir()
        try:
            yield draft
            if target.exists():
                _exchange(draft, target)
                shutil.rmtree(draft)
            else:
                os.rename(draft, target)
        except BaseException:
            if draft.exists():
                shutil.rmtree(draft)
            raise

    def drop(self, name: str) -> None:
        """Remove the thing; none is a success. Its name is free at once."""
        draft = self._draft(name)
        if self.path(name).is_dir():
            os.rename(self.path(name), draft)
            shutil.rmtree(draft)

    def read(self, name: str) -> dict[str, Any]:
        """The thing's record; empty without one."""
        try:
            record: dict[str, Any] = json.loads((self.path(name) / "record.json").read_text())
        except FileNotFoundError:
            return {}
        return record

    def write(self, name: str, record: dict[str, Any], folder: Path | None = None) -> None:
        """Replace the record in one step. ``folder``: of a thing that is being made."""
        write_record(folder or self.path(name), record)

    def _draft(self, name: str) -> Path:
        return self.folder / f"{_DRAFT}{name}-{secrets.token_hex(4)}"

    def _listed(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step: ``renameat2(2)`` with RENAME_EXCHANGE, which Python does not have."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), 2):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """A record, whole or not at all. Raises :class:`NoRoom` on a full disk."""
    temporary = folder / f".record-{secrets.token_hex(4)}"
    with explained(f"keep a record in {folder}"):
        try:
            temporary.write_text(json.dumps(record))
            os.replace(temporary, folder / "record.json")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
