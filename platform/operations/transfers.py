"""Files of exported checkpoints on the panel's disk: one an operation, there until it was downloaded or taken up, an hour at most."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict
from hostler.core.messages import now
from hostler.core.names import check_id
from hostler.operations.unasked import OPEN
from hostler.store.models import Operation

#: Seconds that a file is kept for whoever asked for it.
KEPT: Final = 3600
#: Files that one account may have with the panel, those on their way included.
LIMIT: Final = 4


def path_of(folder: Path, operation: str) -> Path:
    """Where an operation's file is or would be. Raises :class:`Invalid` for what is no id."""
    return folder / check_id(operation)


def remove(folder: Path, operation: str) -> None:
    """None is a success."""
    path_of(folder, operation).unlink(missing_ok=True)


def check_share(session: Session, folder: Path, account: str) -> None:
    """Raise :class:`Conflict` for an account that has left as many files with the panel as it may."""
    lately = select(Operation).where(
        Operation.kind == "checkpoint.export", Operation.account_id == account, Operation.created_at > now() - timedelta(seconds=2 * KEPT)
    )
    held = [one.id for one in session.scalars(lately) if one.state in OPEN or path_of(folder, one.id).is_file()]
    if len(held) >= LIMIT:
        raise Conflict(
            f"{len(held)} exported checkpoints wait to be downloaded", hint=f"download them, or remove them: DELETE /v1/operations/{held[0]}/file", code="too_many_files"
        )


def sweep(session: Session, folder: Path) -> list[str]:
    """Remove the files whose time is over, but those of operations that are under way; their names."""
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        operation = session.get(Operation, path.name)
        if (operation is None or operation.state not in OPEN) and _is_old(path):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - KEPT
    except FileNotFoundError:  # downloaded meanwhile
        return False
