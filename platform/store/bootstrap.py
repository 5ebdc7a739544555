"""First start of an installation: tables, the provider's account and token, plans, servers. Idempotent.

    python -m hostler.store.bootstrap --node alpha --node beta

Prints one JSON object: ``{"token": "…" or null, "created": true|false}``. The token is told only when it is made.
"""

from __future__ import annotations

import json

import click
from sqlalchemy import select

from hostler.core.limits import Limits
from hostler.settings import ControlSettings
from hostler.store.accounts import create_account, create_token
from hostler.store.engine import Store
from hostler.store.migrate import upgrade
from hostler.store.models import Account, Node, Plan, Token
from hostler.store.nodes import add_node

PLANS: dict[str, tuple[str, Limits]] = {
    "nano": ("for a try", Limits.model_validate({"cpu": 0.25, "memory": "64M", "disk": "512M", "pids": 64, "rate_in": "50Mbit", "rate_out": "50Mbit"})),
    "small": ("a small site", Limits.model_validate({"cpu": 0.5, "memory": "256M", "disk": "2G", "pids": 256, "rate_in": "100Mbit", "rate_out": "100Mbit"})),
    "medium": ("an application", Limits.model_validate({"cpu": 1, "memory": "1G", "disk": "10G", "pids": 512, "rate_in": "250Mbit", "rate_out": "250Mbit"})),
    "large": ("a busy application", Limits.model_validate({"cpu": 2, "memory": "4G", "disk": "40G", "pids": 2048, "rate_in": "1Gbit", "rate_out": "1Gbit"})),
}


def bootstrap(store: Store, account: str, node_names: tuple[str, ...]) -> str | None:
    """Make what is missing; the first token's secret if it was made now."""
    with store.write() as session:
        provider = session.scalar(select(Account).where(Account.provider.is_(True)).order_by(Account.created_at))
        if provider is None:
            provider = create_account(session, account, provider=True)
        secret = None
        if session.scalar(select(Token.id).where(Token.account_id == provider.id).limit(1)) is None:
            _, secret = create_token(session, provider, "first login")
        if session.scalar(select(Plan.id).limit(1)) is None:
            session.add_all(Plan(name=name, description=text, limits=limits.model_dump(mode="json")) for name, (text, limits) in PLANS.items())
        known = set(session.scalars(select(Node.name)))
        for name in node_names:
            if name not in known:
                add_node(session, name)
        return secret


@click.command()
@click.option("--account", default="provider", show_default=True, help="name of the provider's account")
@click.option("--node", "nodes", multiple=True, help="name of a server to make known; may be given again")
def main(account: str, nodes: tuple[str, ...]) -> None:
    """Make the tables, the provider's account with its first token, plans and servers."""
    settings = ControlSettings()
    settings.blob_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.store)
    store = Store(settings.store)
    try:
        secret = bootstrap(store, account, nodes)
    finally:
        store.close()
    click.echo(json.dumps({"token": secret, "created": secret is not None}))


if __name__ == "__main__":
    main()
