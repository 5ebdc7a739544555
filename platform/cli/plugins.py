"""plugins: the drivers of all servers."""

from __future__ import annotations

import click

from hostler.cli import output
from hostler.cli.connection import connect


@click.command()
@click.option("--group", help="Only this group: ns, net, storage, limits, images.")
@click.option("--node", help="Only this server.")
@output.json_option
def plugins(group: str | None, node: str | None, as_json: bool) -> None:
    """Show the drivers of all servers: version, health, and what each can do or why it was left out.

    For the provider.
    """
    with connect() as client:
        found = [client.node(node)] if node else list(client.nodes())
    if as_json:
        output.print_json(found)
        return
    rows = [
        [fact.group, fact.name, fact.version, server.name, "usable" if fact.usable else "left out", ", ".join(fact.capabilities) or "-", fact.problem or "-"]
        for server in found
        for fact in server.drivers
        if group in (None, fact.group)
    ]
    output.table(["GROUP", "DRIVER", "VERSION", "SERVER", "HERE", "CAN", "LACKS"], sorted(rows))
