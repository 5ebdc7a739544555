"""Limits and outcomes in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hostler.core.limits import Limits
from hostler.core.units import format_rate, format_size

_SIZES = ("memory", "memory_guarantee", "swap", "disk")
_RATES = ("rate_in", "rate_out")
_DEFAULTS = Limits()


def limits_in_words(limits: Limits) -> str:
    """Only what is limited or differs from what is usual: ``cpu 0.5, memory 256M, disk 2G``."""
    return ", ".join(_said(limits.model_dump(), _DEFAULTS.model_dump())) or "unlimited"


def change_in_words(change: dict[str, Any]) -> str:
    """A resize's change."""
    return ", ".join(_one(name, value) for name, value in change.items())


def _said(values: dict[str, Any], usual: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{part} {_number(part, number)}" for part, number in value.items() if number is not None)
        elif value != usual[name]:
            yield _one(name, value)


def _one(name: str, value: Any) -> str:
    if value is None:
        return f"{name} unlimited"
    if name in _SIZES:
        return f"{name} {format_size(value)}"
    if name in _RATES:
        return f"{name} {format_rate(value)}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"


def _number(part: str, number: int) -> str:
    return f"{format_size(number)}/s" if part.endswith("_bps") else f"{number}/s"
