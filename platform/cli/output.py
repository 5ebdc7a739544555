"""How things are printed: aligned columns for people, JSON for programs. Colours only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])

_COLOURS = {
    "running": "green",
    "done": "green",
    "online": "green",
    "ready": "green",
    "error": "red",
    "failed": "red",
    "offline": "red",
    "needs_attention": "red",
    "undoing": "yellow",
    "queued": "yellow",
    "suspended": "cyan",
    "broken": "red",
    "cancelled": "yellow",
}


def json_option(command: F) -> F:
    """``--json``, which gives the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API has it.")(command)


def print_json(found: BaseModel | Iterable[BaseModel]) -> None:
    """A model as an object, several as a list."""
    if isinstance(found, BaseModel):
        shown: Any = found.model_dump(mode="json")
    else:
        shown = [item.model_dump(mode="json") for item in found]
    click.echo(json.dumps(shown, indent=2, ensure_ascii=False))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns. On a terminal the titles are bold and states coloured; nothing else differs."""
    cells = [[_clean(cell) for cell in row] for row in rows]
    widths = [max(len(title), *(len(row[index]) for row in cells)) if cells else len(title) for index, title in enumerate(titles)]
    click.echo(click.style(_aligned(titles, widths), bold=True))
    for row in cells:
        line = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(_coloured(cell) for cell in line).rstrip())


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """One thing: a line a field. Empty ones are left out."""
    shown = [(name, _clean(value)) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {_coloured(value)}")


def ago(when: datetime | None) -> str:
    """How long ago, in the largest fitting unit."""
    if when is None:
        return "never"
    seconds = max((datetime.now(UTC) - when).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _clean(cell: object) -> str:
    """Text for a terminal: names and messages may come from tenants, so control characters are shown, not obeyed."""
    text = "-" if cell is None else str(cell)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell
