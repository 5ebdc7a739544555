"""The panel and what is behind it."""

from __future__ import annotations

from tests.web.fixtures import app, beta, fleet, panel_url, settings, world

__all__ = ["app", "beta", "fleet", "panel_url", "settings", "world"]
