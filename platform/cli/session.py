"""login, doctor, version."""

from __future__ import annotations

import click

from hostler.cli import config, output


@click.command()
@click.argument("url")
@click.option("--token", prompt=True, hide_input=True, help="The secret that your provider gave you; asked for when left out.")
def login(url: str, token: str) -> None:
    """Keep a panel's address and a token, once they are seen to work."""
    from hostler.client.client import Client

    with Client(url, token.strip(), timeout=10) as client:
        account = client.own_account()
    file = config.save(config.Login(url.rstrip("/"), token.strip()))
    click.echo(f"logged in to {url} as {account.name}{' (the provider)' if account.provider else ''}; kept in {file}")


@click.command()
@output.json_option
def doctor(as_json: bool) -> int:
    """Say what this host offers Hostler and what it lacks."""
    from hostler import log
    from hostler.node.doctor import blocks, examine, show
    from hostler.settings import NodeSettings

    settings = NodeSettings()
    log.configure(settings.model_copy(update={"log_level": "error"}), "doctor")  # the findings say it all
    findings = examine(settings)
    if as_json:
        output.print_json(findings)
    else:
        show(findings)
    return 1 if blocks(findings) else 0


@click.command()
def version() -> None:
    """Show the version."""
    from importlib.metadata import version as installed

    click.echo(f"hostler {installed('hostler')}")
