"""The panel and what is behind it."""

from __future__ import annotations

from tests.web.fixtures import app, fleet, panel_url, settings, world

__all__ = ["app", "fleet", "panel_url", "settings", "world"]
