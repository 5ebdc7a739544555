"""Bring a store's tables to this version, with Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

_FOLDER = Path(__file__).parent / "migrations"


def config(url: str) -> Config:
    """Alembic's configuration, without a file of its own."""
    made = Config()
    made.set_main_option("script_location", str(_FOLDER))
    made.attributes["url"] = url
    return made


def upgrade(url: str, to: str = "head") -> None:
    """Apply the migrations that are missing."""
    command.upgrade(config(url), to)
