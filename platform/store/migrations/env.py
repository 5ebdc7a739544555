"""Alembic's environment: migrations run online, each in a transaction, on SQLite by copying tables."""

from __future__ import annotations

from alembic import context

from hostler.store.engine import open_engine
from hostler.store.models import Base


def run() -> None:
    """Run the migrations on the URL that :func:`hostler.store.migrate.config` was given."""
    engine = open_engine(context.config.attributes["url"])
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
