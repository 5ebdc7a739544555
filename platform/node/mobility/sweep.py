"""What a worker that died has left of checkpoints and moves, as far as it is certain that nobody needs it any more.

All else is settled by the operations themselves: a restore's images by the step that restores or by its undo, those of a container that came to this
server by ``move.in`` or ``move.discard``, and the folder of a move away, which tells that step of the crash, by ``move.out`` or ``move.back``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog

from hostler.mobility.drafts import clean_drafts
from hostler.mobility.shelf import Shelf
from hostler.node.drivers import Drivers

log = structlog.get_logger()


def sweep(state: Path, drivers: Drivers) -> list[Path]:
    """Called before a worker takes work, in the one worker of a server: remove it, and say what it was."""
    removed = [state / "checkpoints" / name for name in Shelf(state / "checkpoints").clean_drafts()] if (state / "checkpoints").is_dir() else []
    revivals = state / "revivals"
    for folder in sorted(entry for entry in revivals.iterdir() if entry.is_dir()) if revivals.is_dir() else ():
        removed += [folder / name for name in clean_drafts(folder)]
        if folder.name.startswith("dump-"):  # the step makes a new one
            if drivers.loaded["checkpoint"]:
                drivers.checkpoint().end_following(folder / "images")
            removed.append(folder)
        elif folder.name.startswith("move-") and not _serves(drivers, folder / "images"):  # a move is not taken up again
            removed += [entry for entry in folder.iterdir() if entry.is_dir()]
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path)
    if removed:
        log.info("removed what a dead worker had left", paths=[str(path.relative_to(state)) for path in removed])
    return removed


def _serves(drivers: Drivers, images: Path) -> bool:
    """Whether memory still follows the container from there."""
    return bool(drivers.loaded["checkpoint"]) and drivers.checkpoint().following(images)
