"""A client with the login in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostler.cli import config

if TYPE_CHECKING:
    from hostler.client.client import Client


def connect() -> Client:
    """Connect to the panel. Raises :class:`hostler.core.errors.Unauthenticated` without a login."""
    login = config.load()
    from hostler.client.client import (
        Client,  # takes a tenth of a second: only once something is asked of the panel
    )

    return Client(login.url, login.token)
