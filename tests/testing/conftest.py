"""A whole platform on fakes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.client.client import Client
from hostler.settings import ControlSettings
from hostler.store.accounts import create_account, create_token
from hostler.store.engine import Store
from hostler.store.nodes import add_node
from tests.testing.world import FakeFleet, FakeServer, Platform
from tests.web.fixtures import app, panel_url, settings

__all__ = ["app", "panel_url", "platform", "settings"]


@pytest.fixture
def platform(settings: ControlSettings, store: Store, panel_url: str, tmp_path: Path) -> Iterator[Platform]:
    """A panel, a control side and one server on fake drivers, with an image and a plan."""
    settings.panel_url = panel_url
    with store.write() as session:
        _, secret = create_token(session, create_account(session, "provider", provider=True), "test")
        add_node(session, "alpha")
    server = FakeServer("alpha", settings, tmp_path / "nodes")
    try:
        with FakeFleet(settings, [server]).at_work(), Client(panel_url, secret) as client:
            made = Platform(client, server)
            made.prepare()
            yield made
    finally:
        server.side.close()
