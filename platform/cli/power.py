"""start, stop, restart, delete: of one container or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.cli.run import failed
from hostler.cli.waiting import finished, outcome, wait_options
from hostler.core.errors import HostlerError

if TYPE_CHECKING:
    from hostler.client.client import Client
    from hostler.core.api import OperationOut


def each(names: Sequence[str], ask: Callable[[Client, str], OperationOut], *, no_wait: bool, as_json: bool) -> int:
    """Ask for all of them first, so that they run beside each other; then wait for each. One that fails stops no other."""
    from hostler.client.client import failure

    status = 0
    ended: list[OperationOut] = []
    with connect() as client:
        asked: list[OperationOut] = []
        for name in names:
            try:
                asked.append(ask(client, name))
            except HostlerError as error:
                status = failed(error.message, error.hint)
        for operation in asked:
            last = operation if no_wait else finished(client, operation)
            ended.append(last)
            reason = None if no_wait else failure(last)
            if reason is not None:
                status = failed(f"{last.target}: {reason.message}", reason.hint)
            elif not as_json:
                click.echo(last.id if no_wait else outcome(client, last))
    if as_json:
        output.print_json(ended)
    return status


_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")
_grace = click.option("--grace", type=click.FloatRange(0, 600), default=10.0, show_default=True, help="Seconds before it is killed.")


@click.command()
@_names
@wait_options
def start(names: tuple[str, ...], no_wait: bool, as_json: bool) -> int:
    """Start containers."""
    return each(names, lambda client, name: client.start(name), no_wait=no_wait, as_json=as_json)


@click.command()
@_names
@_grace
@click.option("--discard-memory", is_flag=True, help="Of a suspended container: give its memory on disk up.")
@wait_options
def stop(names: tuple[str, ...], grace: float, discard_memory: bool, no_wait: bool, as_json: bool) -> int:
    """Stop containers; their files and addresses stay."""
    return each(names, lambda client, name: client.stop(name, grace, discard_memory=discard_memory), no_wait=no_wait, as_json=as_json)


@click.command()
@_names
@_grace
@wait_options
def restart(names: tuple[str, ...], grace: float, no_wait: bool, as_json: bool) -> int:
    """Restart containers."""
    return each(names, lambda client, name: client.restart(name, grace), no_wait=no_wait, as_json=as_json)


@click.command()
@_names
@wait_options
def delete(names: tuple[str, ...], no_wait: bool, as_json: bool) -> int:
    """Delete containers with all that they have."""
    return each(names, lambda client, name: client.delete(name), no_wait=no_wait, as_json=as_json)
