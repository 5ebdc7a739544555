"""checkpoint: create, ls, show, inspect, verify, export, import, rm."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hostler.cli import output, progress
from hostler.cli.connection import connect
from hostler.cli.waiting import conclude, finished, raise_failure, wait_options
from hostler.core.units import format_size


class _Aliased(click.Group):
    """``list`` and ``delete`` are understood as well."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias."""
        return super().get_command(ctx, {"list": "ls", "delete": "rm"}.get(cmd_name, cmd_name))


@click.group(cls=_Aliased)
def checkpoint() -> None:
    """Checkpoints: memory and files of a container at one instant."""


@checkpoint.command()
@click.argument("name")
@click.option("--name", "label", metavar="LABEL", help="What it is called, for people.")
@wait_options
def create(name: str, label: str | None, no_wait: bool, as_json: bool) -> None:
    """Take a checkpoint of a running container, which goes on."""
    with connect() as client:
        conclude(client, client.checkpoint(name, label=label), no_wait=no_wait, as_json=as_json)


@checkpoint.command("ls")
@click.argument("container", required=False)
@click.option("--account", help="For the provider: of this account, or * for all.")
@output.json_option
def list_checkpoints(container: str | None, account: str | None, as_json: bool) -> None:
    """List checkpoints, of one container or all."""
    with connect() as client:
        found = list(client.checkpoints(container=container, account=account))
    if as_json:
        output.print_json(found)
        return
    rows = [
        [row.id, row.container, row.name, row.kind, row.state, row.node, format_size(row.memory), format_size(row.stored), output.ago(row.created_at)]
        for row in found
    ]
    output.table(["ID", "CONTAINER", "NAME", "KIND", "STATE", "NODE", "MEMORY", "ON DISK", "TAKEN"], rows)


@checkpoint.command()
@click.argument("checkpoint_id", metavar="ID")
@output.json_option
def show(checkpoint_id: str, as_json: bool) -> None:
    """Show one checkpoint, as the platform knows it."""
    with connect() as client:
        found = client.show_checkpoint(checkpoint_id)
    if as_json:
        output.print_json(found)
        return
    output.fields(
        [
            ("id", found.id),
            ("name", found.name),
            ("container", found.container),
            ("node", found.node),
            ("kind", found.kind),
            ("state", found.state),
            ("memory", format_size(found.memory)),
            ("images", format_size(found.bytes)),
            ("on disk", format_size(found.stored)),
            ("frozen for", f"{found.frozen_ms:.1f} ms"),
            ("files", f"snapshot {found.snapshot}" if found.snapshot else "not part of it"),
            ("writer", found.writer),
            ("taken", output.ago(found.created_at)),
        ]
    )


@checkpoint.command()
@click.argument("checkpoint_id", metavar="ID")
def inspect(checkpoint_id: str) -> None:
    """Print what a checkpoint's file says of itself: its manifest, as JSON, read on its server."""
    with connect() as client:
        found = client.inspect_checkpoint(checkpoint_id)
    click.echo(json.dumps(found.manifest, indent=2))


@checkpoint.command()
@click.argument("checkpoint_id", metavar="ID")
@output.json_option
def verify(checkpoint_id: str, as_json: bool) -> None:
    """Have every byte of a checkpoint's file read and held against its digests."""
    with connect() as client:
        found = client.verify_checkpoint(checkpoint_id)
    if as_json:
        output.print_json(found)
    else:
        click.echo(f"checkpoint {checkpoint_id} is whole")


@checkpoint.command()
@click.argument("checkpoint_id", metavar="ID")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@output.json_option
def export(checkpoint_id: str, file: Path | None, as_json: bool) -> None:
    """Write a checkpoint with its files to one FILE (ID.checkpoint without one), for this installation or another.

    It holds the container's whole memory. It is encrypted when the server has a key.
    """
    from hostler.mobility.drafts import check_absent

    target = file or Path(f"{checkpoint_id}.checkpoint")
    check_absent(target)
    with connect() as client:
        made = finished(client, client.export_checkpoint(checkpoint_id))
        raise_failure(made)
        size = int(str(made.result["size"]))
        with progress.of_bytes(f"download {target.name}", size) as advance:
            client.download_checkpoint(made, target, advance)
    if as_json:
        output.print_json(made)
    else:
        kind = "encrypted" if made.result.get("encrypted") else "not encrypted"
        click.echo(f"checkpoint {checkpoint_id} of {made.target} is in {target}, {format_size(size)}, {kind}")


@checkpoint.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What the container is called; without it as the original was.")
@click.option("--plan", help="Its plan; without it the smallest that allows as much as the original had.")
@click.option("--on", metavar="NODE", help="The server; without it the best.")
@wait_options
def import_checkpoint(file: Path, name: str | None, plan: str | None, on: str | None, no_wait: bool, as_json: bool) -> None:
    """Make a new, warm container of an exported checkpoint: memory and files, with an address of its own.

    For the provider. Whoever made the FILE decides what runs: import none of strangers.
    """
    with connect() as client:
        with progress.of_bytes(f"upload {file.name}", file.stat().st_size) as advance:
            operation = client.import_checkpoint(file, name=name, plan=plan, on=on, advance=advance)
        conclude(client, operation, no_wait=no_wait, as_json=as_json)


@checkpoint.command()
@click.argument("checkpoint_id", metavar="ID")
@wait_options
def rm(checkpoint_id: str, no_wait: bool, as_json: bool) -> None:
    """Remove a checkpoint; its container stays as it is."""
    with connect() as client:
        conclude(client, client.delete_checkpoint(checkpoint_id), no_wait=no_wait, as_json=as_json)
