"""create, list, show, resize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hostler.cli import output
from hostler.cli.connection import connect
from hostler.cli.limit_options import limit_options, limits_of
from hostler.cli.waiting import conclude, wait_options

if TYPE_CHECKING:
    from hostler.core.api import ContainerOut, UsageOut


@click.command()
@click.argument("name")
@click.option("--image", required=True, help="hostler image list shows what there is.")
@click.option("--plan", required=True, help="hostler plan list shows what there is.")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="An environment variable; may be given again.")
@click.option("--user", default="", help="Name, uid or uid:gid inside.")
@click.option("--cwd", default="", help="Folder inside to start in.")
@click.argument("args", nargs=-1)
@limit_options
@wait_options
def create(name: str, image: str, plan: str, env: tuple[str, ...], user: str, cwd: str, args: tuple[str, ...], no_wait: bool, as_json: bool, **options: Any) -> None:
    """Make a container and start it.

    What follows `--` replaces the image's command: hostler create web --image busybox --plan small -- httpd -f
    """
    body: dict[str, Any] = {"name": name, "image": image, "plan": plan, "args": list(args), "env": list(env), "user": user, "cwd": cwd}
    limits = limits_of(options)
    if limits:
        body["limits"] = limits
    with connect() as client:
        conclude(client, client.create(body), no_wait=no_wait, as_json=as_json)


@click.command("list")
@click.option("--state", help="Only those in this state.")
@click.option("--node", help="Only those on this server.")
@click.option("--account", help="For the provider: of this account, or * for all.")
@click.argument("prefix", required=False)
@output.json_option
def list_containers(state: str | None, node: str | None, account: str | None, prefix: str | None, as_json: bool) -> None:
    """List containers; PREFIX is the beginning of their names."""
    with connect() as client:
        found = list(client.containers(state=state, node=node, name=prefix, account=account))
    if as_json:
        output.print_json(found)
        return
    titles = ["NAME", "STATE", "ADDRESS", "NODE", "PLAN", "IMAGE", "CREATED"]
    rows: list[list[object]] = [[row.name, _state(row), row.address_v4, row.node, row.plan, row.image, output.ago(row.created_at)] for row in found]
    if account:
        titles, rows = ["ACCOUNT", *titles], [[row.account, *cells] for row, cells in zip(found, rows, strict=True)]
    output.table(titles, rows)


@click.command()
@click.argument("name")
@click.option("--usage", is_flag=True, help="Also what it uses now and used at most, how often a limit hit it, and why it was slow or killed.")
@output.json_option
def show(name: str, usage: bool, as_json: bool) -> None:
    """Show one container."""
    with connect() as client:
        found = client.container(name)
        used = client.usage(name) if usage else None
    if as_json:
        output.print_json(found if used is None else [found, used])
        return
    output.fields(_shown(found))
    if used is not None:
        click.echo()
        _tell_usage(found, used)


@click.command()
@click.argument("name")
@limit_options
@wait_options
def resize(name: str, no_wait: bool, as_json: bool, **options: Any) -> None:
    """Give a container other limits, live. Only what is given changes; `none` lifts a limit."""
    with connect() as client:
        conclude(client, client.resize(name, limits_of(options)), no_wait=no_wait, as_json=as_json)


def _state(row: ContainerOut) -> str:
    return row.state


def _shown(found: ContainerOut) -> list[tuple[str, object]]:
    from hostler.cli.words import limits_in_words

    busy = f"{found.operation.kind} {found.operation.id} is {found.operation.state}" if found.operation else ""
    return [
        ("name", found.name),
        ("id", found.id),
        ("account", found.account),
        ("state", found.state),
        ("wanted", found.wanted if found.wanted != found.state else ""),
        ("error", found.error.message if found.error else ""),
        ("hint", found.error.hint if found.error else ""),
        ("memory", f"on disk: checkpoint {found.checkpoint}" if found.checkpoint else ""),
        ("operation", busy),
        ("node", found.node),
        ("address", found.address_v4),
        ("", found.address_v6),
        ("ports", ", ".join(found.ports)),
        ("image", found.image),
        ("plan", found.plan),
        ("limits", limits_in_words(found.limits)),
        ("command", " ".join(found.args)),
        ("environment", " ".join(found.env)),
        ("user", found.user),
        ("drivers", ", ".join(f"{group} {driver}" for group, driver in sorted(found.drivers.items()))),
        ("created", output.ago(found.created_at)),
        ("started", output.ago(found.started_at) if found.started_at else ""),
    ]


def _tell_usage(found: ContainerOut, used: UsageOut) -> None:
    from hostler.cli.usage import reasons, used_in_words

    output.fields(used_in_words(found.limits, used))
    said = reasons(found.name, found.limits, used)
    if said:
        click.echo("\nsince it was started:")
    for reason in said:
        click.echo(f"  - {reason}")
