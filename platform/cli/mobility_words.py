"""Suspends, moves and checkpoints in words. Pure."""

from __future__ import annotations

from typing import Any

from hostler.core.api import MigrateCheck, MismatchOut, ObstacleOut, OperationOut, SuspendCheck
from hostler.core.units import format_size

_METHODS = {
    "pre_copy": "live, memory copied before the freeze",
    "post_copy": "live, memory follows after the freeze",
    "stop_copy": "frozen while memory is copied",
    "restart": "stopped, copied, started",
    "files": "files only",
}


def suspend_check(found: SuspendCheck) -> list[tuple[str, object]]:
    """What a suspend would meet."""
    return [
        ("possible", "yes" if found.possible else "no"),
        ("gives back", format_size(found.memory)),
        ("frozen for", _about(found.frozen_ms)),
        *_reasons("obstacle", found.obstacles),
    ]


def migrate_check(found: MigrateCheck) -> list[tuple[str, object]]:
    """What a move would meet and be."""
    blocking = [one for one in found.mismatches if one.blocks]
    warnings = [one for one in found.mismatches if not one.blocks]
    return [
        ("possible", "yes" if found.possible else "no"),
        ("from", found.source),
        ("to", found.target),
        ("method", f"{found.method}: {_METHODS.get(found.method, '')}" if found.method else "none"),
        ("why", found.why),
        ("memory", format_size(found.memory)),
        ("sends", f"about {format_size(found.bytes)}"),
        ("frozen for", _about(found.frozen_ms)),
        *_reasons("obstacle", found.obstacles),
        *_reasons("mismatch", blocking),
        *_reasons("warning", warnings),
    ]


def _about(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"about {milliseconds:.0f} ms"


def _reasons(title: str, found: list[ObstacleOut] | list[MismatchOut]) -> list[tuple[str, object]]:
    return [(title, f"{one.message} ({one.remedy})" if one.remedy else one.message) for one in found]


def suspended(operation: OperationOut) -> str:
    """``web is suspended, 40M of memory given back``."""
    freed: Any = operation.result.get("memory") or 0
    stored: Any = operation.result.get("stored") or 0
    return f"{operation.target} is suspended, {format_size(freed)} of memory given back, {format_size(stored)} on disk"


def checkpoint_taken(operation: OperationOut) -> str:
    """``checkpoint ID of web: 12M on disk, frozen for 46 ms``."""
    stored: Any = operation.result.get("stored") or 0
    frozen: Any = operation.result.get("frozen_ms") or 0.0
    return f"checkpoint {operation.request.get('checkpoint')} of {operation.target}: {format_size(stored)} on disk, frozen for {frozen:.0f} ms"


def move_report(operation: OperationOut) -> list[str]:
    """The lines under a move's outcome: how, why, what it cost."""
    told: dict[str, Any] = dict(operation.result)
    if not told.get("method"):
        return []
    lines = [f"  {told['method']}: {_METHODS.get(told['method'], '')}"]
    if told.get("why"):
        lines.append(f"  because {told['why']}")
    cost = [f"frozen for {told['frozen_ms']:.0f} ms"] if told.get("frozen_ms") is not None else []
    cost += [f"{format_size(told['bytes'])} sent"] if told.get("bytes") else []
    cost += [f"{len(told['rounds'])} rounds"] if told.get("rounds") else []
    if cost:
        lines.append(f"  {', '.join(cost)}")
    phases: dict[str, float] = told.get("phases") or {}
    if phases:
        lines.append("  " + ", ".join(f"{name.replace('_', ' ')} {took:.0f} ms" for name, took in phases.items()))
    return lines
