"""plan: list, create, delete."""

from __future__ import annotations

from typing import Any

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.cli.limit_options import limit_options, limits_of
from hostler.cli.words import limits_in_words


def _driver(word: str) -> tuple[str, str]:
    group, equals, name = word.partition("=")
    if not (group and equals and name):
        raise click.BadParameter(f"{word!r} is not GROUP=NAME, such as net=routed", param_hint="--driver")
    return group, name


@click.group()
def plan() -> None:
    """Plans: limits under a name."""


@plan.command("list")
@output.json_option
def list_plans(as_json: bool) -> None:
    """List plans."""
    with connect() as client:
        found = list(client.plans())
    if as_json:
        output.print_json(found)
        return
    output.table(["NAME", "LIMITS", "DESCRIPTION"], [[row.name, limits_in_words(row.limits), row.description] for row in found])


@plan.command()
@click.argument("name")
@click.option("--description", default="")
@click.option("--driver", "drivers", multiple=True, metavar="GROUP=NAME", help="Driver of its containers, such as net=routed; others are chosen.")
@limit_options
@output.json_option
def create(name: str, description: str, drivers: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Make a plan. A limit that is left out is none."""
    chosen = dict(_driver(word) for word in drivers)
    with connect() as client:
        made = client.create_plan(name, limits_of(options), description=description, drivers=chosen or None)
    if as_json:
        output.print_json(made)
    else:
        click.echo(f"plan {made.name}: {limits_in_words(made.limits)}")


@plan.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a plan that no container has."""
    with connect() as client:
        client.delete_plan(name)
    click.echo(f"plan {name} is deleted")
