"""Bars of bytes on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hostler.cli import output


@contextmanager
def of_bytes(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """While inside: call it with each further count of bytes, of ``size`` in all."""
    if not output.on_terminal():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=size)
        yield lambda count: progress.advance(task, count)
