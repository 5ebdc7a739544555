"""account: list, create, set. token: list, create, revoke."""

from __future__ import annotations

import re

import click

from hostler.cli import output
from hostler.cli.connection import connect

_UNITS = {"m": 60, "h": 3600, "d": 86400}


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Seconds of ``90d``, ``12h``, ``30m``."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", value)
    if match is None:
        raise click.BadParameter(f"{value} is not a duration; write one such as 90d, 12h or 30m")
    return int(match[1]) * _UNITS[match[2]]


@click.group()
def account() -> None:
    """Accounts, for the provider."""


@account.command("list")
@output.json_option
def list_accounts(as_json: bool) -> None:
    """List accounts."""
    with connect() as client:
        found = list(client.accounts())
    if as_json:
        output.print_json(found)
        return
    rows = [[row.name, row.id, "provider" if row.provider else "tenant", row.cpu_weight, output.ago(row.created_at)] for row in found]
    output.table(["NAME", "ID", "WHAT", "CPU WEIGHT", "CREATED"], rows)


@account.command("create")
@click.argument("name")
@output.json_option
def create_account(name: str, as_json: bool) -> None:
    """Make a tenant's account. Give it a token next: hostler token create --account NAME."""
    with connect() as client:
        made = client.create_account(name)
    if as_json:
        output.print_json(made)
    else:
        click.echo(f"account {made.name} exists; give it a token: hostler token create first --account {made.name}")


@account.command("set")
@click.argument("name")
@click.option("--cpu-weight", type=click.IntRange(1, 10000), required=True, help="Share of processors among busy accounts; 100 is usual.")
@output.json_option
def set_account(name: str, cpu_weight: int, as_json: bool) -> None:
    """Set an account's share of processors. It holds on a server from the next start of one of its containers there."""
    with connect() as client:
        changed = client.share_account(name, cpu_weight=cpu_weight)
    if as_json:
        output.print_json(changed)
    else:
        click.echo(f"account {changed.name} has CPU weight {changed.cpu_weight}")


@click.group()
def token() -> None:
    """Tokens: an account's keys to the API."""


@token.command("list")
@click.option("--account", help="For the provider: of this account, or * for all.")
@output.json_option
def list_tokens(account: str | None, as_json: bool) -> None:
    """List tokens, without their secrets."""
    with connect() as client:
        found = list(client.tokens(account))
    if as_json:
        output.print_json(found)
        return
    rows = [
        [row.id, row.name + (" (this one)" if row.current else ""), output.ago(row.created_at), output.ago(row.used_at), f"{row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else "never"]
        for row in found
    ]
    output.table(["ID", "NAME", "CREATED", "USED", "EXPIRES"], rows)


@token.command("create")
@click.argument("name")
@click.option("--lifetime", callback=_seconds, metavar="DURATION", help="Such as 90d, 12h, 30m; until it is revoked when left out.")
@click.option("--account", help="For the provider: for this account.")
@output.json_option
def create_token(name: str, lifetime: int | None, account: str | None, as_json: bool) -> None:
    """Make a token. Its secret is printed now and never told again."""
    with connect() as client:
        made = client.create_token(name, lifetime=lifetime, account=account)
    if as_json:
        output.print_json(made)
    else:
        click.echo(made.secret)
        click.echo("keep it: it is told this once", err=True)


@token.command("revoke")
@click.argument("token_id", metavar="ID")
def revoke_token(token_id: str) -> None:
    """Revoke a token."""
    with connect() as client:
        client.revoke_token(token_id)
    click.echo(f"token {token_id} is revoked")
