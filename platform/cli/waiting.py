"""Waiting for operations: a bar on a terminal, silence elsewhere, one line at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hostler.cli import output
from hostler.cli.words import change_in_words
from hostler.core.errors import NotFound
from hostler.core.units import format_size

if TYPE_CHECKING:
    from hostler.client.client import Client
    from hostler.core.api import OperationOut

F = TypeVar("F", bound=Callable[..., Any])


def wait_options(command: F) -> F:
    """``--no-wait`` and ``--json``, for commands that ask for an operation."""
    command = click.option("--no-wait", is_flag=True, help="Print the operation's id and do not wait for its end.")(command)
    return output.json_option(command)


def conclude(client: Client, operation: OperationOut, *, no_wait: bool, as_json: bool) -> None:
    """Wait for an operation and say how it ended. Raises what it failed with."""
    if not no_wait:
        operation = finished(client, operation)
        raise_failure(operation)
    if as_json:
        output.print_json(operation)
    else:
        click.echo(operation.id if no_wait else outcome(client, operation))


def finished(client: Client, operation: OperationOut) -> OperationOut:
    """The operation once it has ended. Ctrl-C leaves it running and says how to find it again."""
    try:
        with _bar(operation) as show:
            for seen in client.follow(operation.id):
                operation = seen
                show(seen)
    except KeyboardInterrupt as interrupt:
        click.echo(f"the operation goes on; follow it: hostler op follow {operation.id}", err=True)
        raise click.Abort from interrupt
    return operation


def raise_failure(operation: OperationOut) -> None:
    """Raise what an operation that has ended failed with."""
    from hostler.client.client import failure

    error = failure(operation)
    if error is not None:
        raise error


def doing(operation: OperationOut) -> str:
    """What happens now: ``provision web: volume``."""
    what = f"{operation.kind} {operation.target}"
    if operation.state == "queued":
        return f"{what}: waits for {operation.waits_for}" if operation.waits_for else f"{what}: queued"
    active = next((step for step in operation.steps if step.state in ("running", "undoing")), None)
    if active is None:
        return what
    return f"{what}: undoing {active.name}" if operation.state == "undoing" else f"{what}: {active.name}"


def outcome(client: Client, operation: OperationOut) -> str:
    """The last line: what is now."""
    took = f"({operation.seconds or 0:.2f} s)"
    name, kind = operation.target, operation.kind
    if kind in ("provision", "start", "restart", "resume", "restore", "clone", "checkpoint.import"):
        return f"{name} is running{_where(client, operation)} {took}"
    if kind == "resize":
        change: Any = operation.request.get("change", {})
        return f"{name} now has {change_in_words(change)} {took}"
    if kind in ("image.import", "image.build"):
        size: Any = operation.result.get("size", 0)
        return f"image {name} is ready, {format_size(size)} {took}"
    if kind in _OF_MEMORY:
        return _of_memory(client, operation, took)
    ends = {"stop": f"{name} is stopped", "delete": f"{name} is deleted", "image.delete": f"image {name} is deleted"}
    return f"{ends.get(kind, f'{kind} {name} is done')} {took}"


#: Kinds whose outcome is told by :func:`_of_memory`.
_OF_MEMORY = ("suspend", "discard", "migrate", "checkpoint", "checkpoint.delete")


def _of_memory(client: Client, operation: OperationOut, took: str) -> str:
    from hostler.cli.mobility_words import checkpoint_taken, move_report, suspended

    name = operation.target
    match operation.kind:
        case "suspend":
            return f"{suspended(operation)} {took}"
        case "checkpoint":
            return f"{checkpoint_taken(operation)} {took}"
        case "migrate":
            state = client.container(operation.target_id).state
            return "\n".join([f"{name} is {state}{_where(client, operation)} {took}", *move_report(operation)])
        case "discard":
            return f"{name} is stopped, its memory was given up {took}"
    return f"checkpoint {operation.request.get('checkpoint')} of {name} is removed {took}"


def _where(client: Client, operation: OperationOut) -> str:
    try:
        container = client.container(operation.target_id)
    except NotFound:
        return ""
    place = f" on {container.node}" if container.node else ""
    return f"{place} at {container.address_v4}" if container.address_v4 else place


@contextmanager
def _bar(operation: OperationOut) -> Iterator[Callable[[OperationOut], None]]:
    if not output.on_terminal():
        yield lambda seen: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing(operation), total=1.0)
        yield lambda seen: progress.update(task, completed=seen.progress, description=doing(seen))
