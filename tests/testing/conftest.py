"""A whole platform on fakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostler.client.client import Client
from hostler.settings import ControlSettings
from hostler.store.accounts import create_account, create_token
from hostler.store.engine import Store
from hostler.store.nodes import add_node
from tests.testing.world import FakeFleet, FakeServer, Platform
from tests.web.fixtures import app, panel_url, settings

__all__ = ["app", "pair", "panel_url", "platform", "settings"]


@pytest.fixture
def platform(settings: ControlSettings, store: Store, panel_url: str, tmp_path: Path) -> Iterator[Platform]:
    """A panel, a control side and one server on fake drivers, with an image and a plan."""
    with at_work(settings, store, panel_url, tmp_path, ("alpha",)) as made:
        yield made


@pytest.fixture
def pair(settings: ControlSettings, store: Store, panel_url: str, tmp_path: Path) -> Iterator[Platform]:
    """The same with two servers, alpha and beta, that can reach each other."""
    with at_work(settings, store, panel_url, tmp_path, ("alpha", "beta")) as made:
        yield made


@contextmanager
def at_work(settings: ControlSettings, store: Store, panel_url: str, folder: Path, names: Sequence[str]) -> Iterator[Platform]:
    """A platform with servers of these names."""
    settings.panel_url = panel_url
    with store.write() as session:
        _, secret = create_token(session, create_account(session, "provider", provider=True), "test")
        for name in names:
            add_node(session, name)
    servers = [FakeServer(name, settings, folder / "nodes") for name in names]
    try:
        with FakeFleet(settings, list(servers)).at_work() as fleet, Client(panel_url, secret) as client:
            made = Platform(client, servers, fleet)
            made.prepare()
            yield made
    finally:
        for server in servers:
            server.side.close()
