"""suspend, resume, migrate, restore, clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.cli.power import each
from hostler.cli.run import failed
from hostler.cli.waiting import conclude, finished, raise_failure, wait_options

if TYPE_CHECKING:
    from hostler.client.client import Client

_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")
_drop = click.option("--drop-checkpoints", is_flag=True, help="Remove its checkpoints that cannot follow it.")


@click.command()
@_names
@click.option("--check", is_flag=True, help="Say what a suspend would meet, and change nothing.")
@wait_options
def suspend(names: tuple[str, ...], check: bool, no_wait: bool, as_json: bool) -> int:
    """Suspend containers: their memory to disk, RAM and CPU given back, address and connections kept."""
    if check:
        return max(_check_suspend(name, as_json) for name in names)
    return each(names, lambda client, name: client.suspend(name), no_wait=no_wait, as_json=as_json)


@click.command()
@_names
@click.option("--on", metavar="NODE", help="Come back on this server.")
@_drop
@wait_options
def resume(names: tuple[str, ...], on: str | None, drop_checkpoints: bool, no_wait: bool, as_json: bool) -> int:
    """Resume suspended containers."""
    return each(names, lambda client, name: client.resume(name, on=on, drop_checkpoints=drop_checkpoints), no_wait=no_wait, as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--to", metavar="NODE", help="The server; without it the best of the others.")
@click.option("--check", is_flag=True, help="Say what a move would meet and which it would be, and change nothing.")
@click.option("--method", "methods", multiple=True, type=click.Choice(["pre_copy", "post_copy", "stop_copy"]), help="Only this one; may be given again.")
@click.option("--allow-restart", is_flag=True, help="Where its memory cannot move: stop, copy, start.")
@_drop
@wait_options
def migrate(
    name: str, to: str | None, check: bool, methods: tuple[str, ...], allow_restart: bool, drop_checkpoints: bool, no_wait: bool, as_json: bool
) -> int:
    """Move a container to another server, as live as it can be."""
    if check:
        return _check_migrate(name, to, methods, allow_restart, as_json)
    with connect() as client:
        asked = client.migrate(name, to=to, methods=methods, allow_restart=allow_restart, drop_checkpoints=drop_checkpoints)
        conclude(client, asked, no_wait=no_wait, as_json=as_json)
    return 0


@click.command()
@click.argument("name")
@click.option("--from", "checkpoint", metavar="ID", required=True, help="hostler checkpoint ls shows what there is.")
@wait_options
def restore(name: str, checkpoint: str, no_wait: bool, as_json: bool) -> None:
    """Take a container back in time, memory and files. What runs is killed."""
    with connect() as client:
        conclude(client, client.restore(name, checkpoint), no_wait=no_wait, as_json=as_json)


@click.command()
@click.argument("source", metavar="NAME")
@click.option("--from", "checkpoint", metavar="ID", help="A checkpoint of it; without one, as it is now.")
@click.option("--name", "new", metavar="NEW", required=True, help="What the new container is called.")
@wait_options
def clone(source: str, checkpoint: str | None, new: str, no_wait: bool, as_json: bool) -> None:
    """Make a new container from a running one, warm: its memory and files, with an address of its own."""
    with connect() as client:
        conclude(client, client.clone(source, checkpoint or _checkpoint_now(client, source), new), no_wait=no_wait, as_json=as_json)


def _checkpoint_now(client: Client, name: str) -> str:
    """A checkpoint that is taken first, and stays: the next clone may be made from it as well."""
    taken = finished(client, client.checkpoint(name))
    raise_failure(taken)
    made = str(taken.request["checkpoint"])
    click.echo(f"checkpoint {made} of {name} is taken; it stays until hostler checkpoint rm {made}", err=True)
    return made


def _check_suspend(name: str, as_json: bool) -> int:
    from hostler.cli.mobility_words import suspend_check

    with connect() as client:
        found = client.check_suspend(name)
    if as_json:
        output.print_json(found)
    else:
        output.fields(suspend_check(found))
    return 0 if found.possible else _cannot(f"{name} cannot be suspended as it is")


def _check_migrate(name: str, to: str | None, methods: tuple[str, ...], allow_restart: bool, as_json: bool) -> int:
    from hostler.cli.mobility_words import migrate_check

    with connect() as client:
        found = client.check_migrate(name, to=to, methods=methods, allow_restart=allow_restart)
    if as_json:
        output.print_json(found)
    else:
        output.fields(migrate_check(found))
    return 0 if found.possible else _cannot(f"{name} cannot move to {found.target} as it is")


def _cannot(message: str) -> int:
    return failed(message, "each reason above has its remedy; --allow-restart moves what has none by stopping it")
