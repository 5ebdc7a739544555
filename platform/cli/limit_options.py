"""The options that say limits, the same for create, resize and plans. Sizes and rates are text; the panel reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

#: Option → (type, metavar, help). ``none`` lifts a limit where it may be absent.
_OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("cpu", "N", "CPU cap in processors, such as 0.5."),
    ("cpu-weight", "N", "Share among busy containers, 1 to 10000."),
    ("cpus", "LIST", "Pinning, such as 0-1,4."),
    ("memory", "SIZE", "Such as 512M."),
    ("memory-guarantee", "SIZE", "Not reclaimed under pressure."),
    ("swap", "SIZE", "On top of memory."),
    ("pids", "N", "Processes and threads."),
    ("disk", "SIZE", "Of the root volume."),
    ("io-weight", "N", "Share of the disk, 1 to 1000."),
    ("rate-in", "RATE", "Network towards the container, such as 100Mbit."),
    ("rate-out", "RATE", "Network from the container."),
)
_NAMES = tuple(name.replace("-", "_") for name, _, _ in _OPTIONS)
_NUMBERS = {"cpu": float, "cpu_weight": int, "pids": int, "io_weight": int}


def limit_options(command: F) -> F:
    """Add the options; :func:`limits_of` takes their values out of the keyword arguments."""
    for name, metavar, text in reversed(_OPTIONS):
        command = click.option(f"--{name}", metavar=metavar, help=text)(command)
    return command


def limits_of(options: dict[str, Any]) -> dict[str, Any]:
    """The limits that were given. ``none`` becomes null, which lifts one."""
    given = {name: options[name] for name in _NAMES if options.get(name) is not None}
    return {name: _value(name, text) for name, text in given.items()}


def _value(name: str, text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return _NUMBERS[name](text) if name in _NUMBERS else text
    except ValueError as error:
        raise click.BadParameter(f"{text} is not a number", param_hint=f"--{name.replace('_', '-')}") from error
