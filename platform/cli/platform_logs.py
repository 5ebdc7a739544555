"""The logs of the platform's own programs on this machine: ``$HOSTLER_HOME/logs/*.log``."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import click

from hostler.core.errors import NotFound

#: Seconds between two looks for new lines.
GRAIN = 0.3


def show(program: str | None, tail: int | None, follow: bool) -> None:
    """Print the logs of one program, or of all with their names before the lines."""
    files = _files(program)
    width = max(len(file.stem) for file in files)
    places: dict[Path, int] = {}
    for file in files:
        with file.open(errors="replace") as opened:
            lines = opened.readlines() if tail is None else deque(opened, tail)
            places[file] = opened.tell()
        _print(file, lines, 0 if program else width)
    while follow:
        time.sleep(GRAIN)
        for file in files:
            places[file] = _more(file, places[file], 0 if program else width)


def _files(program: str | None) -> list[Path]:
    from hostler.settings import PlatformSettings

    folder = PlatformSettings().home / "logs"
    files = sorted(folder.glob("*.log"))
    chosen = [file for file in files if program in (None, file.stem)]
    if not chosen:
        names = ", ".join(file.stem for file in files)
        raise NotFound(
            f"there is no log of {program} in {folder}" if program else f"there are no logs in {folder}",
            hint=f"choose one of: {names}" if names else "set HOSTLER_HOME to the platform's folder",
        )
    return chosen


def _more(file: Path, place: int, width: int) -> int:
    """Print what came after ``place``; a file that became shorter was begun anew."""
    size = file.stat().st_size
    if size == place:
        return place
    with file.open(errors="replace") as opened:
        opened.seek(place if size > place else 0)
        _print(file, opened.readlines(), width)
        return opened.tell()


def _print(file: Path, lines: list[str] | deque[str], width: int) -> None:
    for line in lines:
        click.echo(f"{file.stem.ljust(width)} | {line.rstrip()}" if width else line.rstrip())
