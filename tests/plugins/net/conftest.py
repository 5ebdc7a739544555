"""Fixtures of the network drivers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.net.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Servers alpha and beta on one switch."""
    made = World(tmp_path)
    try:
        made.add_server("alpha", 11)
        made.add_server("beta", 12)
        yield made
    finally:
        made.end()
