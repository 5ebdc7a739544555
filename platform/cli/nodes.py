"""node: list, show."""

from __future__ import annotations

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.core.units import format_size


@click.group()
def node() -> None:
    """Servers, for the provider."""


def _of(promised: int, total: int) -> str:
    return f"{format_size(promised)} of {format_size(total)}"


@node.command("list")
@output.json_option
def list_nodes(as_json: bool) -> None:
    """List servers, with what they have and what they promised."""
    with connect() as client:
        found = list(client.nodes())
    if as_json:
        output.print_json(found)
        return
    rows = [
        [
            row.name,
            row.state,
            row.containers,
            f"{row.cpus_promised:g} of {row.cpus:g}",
            _of(row.memory_promised, row.memory),
            _of(row.disk_promised, row.disk),
            f"{row.load:.2f}",
            output.ago(row.seen_at),
        ]
        for row in found
    ]
    output.table(["NAME", "STATE", "CONTAINERS", "CPUS", "MEMORY", "DISK", "LOAD", "SEEN"], rows)


@node.command()
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show one server and its drivers."""
    with connect() as client:
        found = client.node(name)
    if as_json:
        output.print_json(found)
        return
    output.fields(
        [
            ("name", found.name),
            ("state", found.state),
            ("seen", output.ago(found.seen_at)),
            ("kernel", f"{found.kernel} {found.architecture}".strip()),
            ("containers", found.containers),
            ("load", f"{found.load:.2f}"),
            ("cpus promised", f"{found.cpus_promised:g} of {found.cpus:g}"),
            ("memory promised", _of(found.memory_promised, found.memory)),
            ("disk promised", f"{_of(found.disk_promised, found.disk)}, {format_size(found.disk_free)} free"),
            ("wire", f"{found.wire.address} {found.wire.fingerprint}" if found.wire else "none: containers cannot be moved to it"),
        ]
    )
    click.echo()
    rows = [[fact.group, fact.name, "usable" if fact.usable else "not usable", ", ".join(fact.capabilities) if fact.usable else fact.problem] for fact in found.drivers]
    output.table(["GROUP", "DRIVER", "HERE", "CAN"], rows)
