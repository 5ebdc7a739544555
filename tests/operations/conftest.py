"""The world that the engine's tests play in."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.store.engine import Store
from tests.operations.world import World, make_world


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """An engine on an empty store, once on SQLite and once on PostgreSQL."""
    return make_world(store, tmp_path)
