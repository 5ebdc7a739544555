"""op: list, show, follow, cancel. events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.cli.waiting import conclude, doing

if TYPE_CHECKING:
    from hostler.core.api import EventOut, OperationOut

#: Seconds between two looks for new events.
GRAIN = 1.0


@click.group()
def op() -> None:
    """Operations: what was asked, and how far it is."""


@op.command("list")
@click.option("--container", help="Only on this container or image.")
@click.option("--state", help="Only those in this state.")
@click.option("--account", help="For the provider: of this account, or * for all.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@output.json_option
def list_operations(container: str | None, state: str | None, account: str | None, limit: int, as_json: bool) -> None:
    """List operations, the newest first."""
    with connect() as client:
        found = client.operations(container=container, state=state, account=account, limit=limit)
    if as_json:
        output.print_json(found)
        return
    rows = [[row.id, row.kind, row.target, row.state, _took(row), output.ago(row.created_at), row.error.message if row.error else ""] for row in found]
    output.table(["ID", "KIND", "ON", "STATE", "TOOK", "ASKED", "ERROR"], rows)


@op.command()
@click.argument("operation_id", metavar="ID")
@output.json_option
def show(operation_id: str, as_json: bool) -> None:
    """Show one operation and its steps."""
    with connect() as client:
        found = client.operation(operation_id)
    if as_json:
        output.print_json(found)
        return
    output.fields(
        [
            ("id", found.id),
            ("what", f"{found.kind} {found.target}"),
            ("state", found.state),
            ("progress", f"{found.progress:.0%}"),
            ("asked", f"{found.request}" if found.request else ""),
            ("by", found.asked_by),
            ("reason", found.reason),
            ("waits for", found.waits_for),
            ("took", _took(found)),
            ("asked at", output.ago(found.created_at)),
            ("error", found.error.message if found.error else ""),
            ("hint", found.error.hint if found.error else ""),
        ]
    )
    if found.steps:
        click.echo()
        rows = [[step.name, step.node, step.state, "" if step.ms is None else f"{step.ms:.1f} ms", step.error.message if step.error else step.note] for step in found.steps]
        output.table(["STEP", "NODE", "STATE", "TOOK", "NOTE"], rows)
    if found.error and found.error.traceback:
        click.echo(f"\n{found.error.traceback}")


@op.command()
@click.argument("operation_id", metavar="ID")
@output.json_option
def follow(operation_id: str, as_json: bool) -> None:
    """Wait for an operation's end."""
    with connect() as client:
        conclude(client, client.operation(operation_id), no_wait=False, as_json=as_json)


@op.command()
@click.argument("operation_id", metavar="ID")
@output.json_option
def cancel(operation_id: str, as_json: bool) -> None:
    """Ask an operation to stop and undo what it did."""
    with connect() as client:
        asked = client.cancel(operation_id)
    if as_json:
        output.print_json(asked)
    else:
        click.echo(f"{doing(asked)}; it stops at its next step")


@click.command()
@click.argument("container", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--account", help="For the provider: of this account, or * for all.")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True)
@output.json_option
def events(container: str | None, follow: bool, account: str | None, limit: int, as_json: bool) -> None:
    """Show what happened, the newest last."""
    with connect() as client:
        found = list(reversed(client.events(container=container, account=account, limit=limit)))
        if as_json and not follow:
            output.print_json(found)
            return
        last = 0
        while True:
            for event in found:
                click.echo(event.model_dump_json() if as_json else _line(event))
                last = event.id
            if not follow:
                return
            time.sleep(GRAIN)
            found = client.events_since(last, container=container, account=account)


def _line(event: EventOut) -> str:
    return f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  {event.container or event.node or '-'}  {event.message}"


def _took(found: OperationOut) -> str:
    return f"{found.seconds:.2f} s" if found.seconds is not None else ""
