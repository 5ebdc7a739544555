"""The REST API: one blueprint a subject, all below ``/v1``."""

from __future__ import annotations

from apiflask import APIFlask

from hostler.web.api import (
    accounts,
    blobs,
    checkpoints,
    containers,
    events,
    health,
    images,
    mobility,
    nodes,
    operations,
    plans,
    power,
    reading,
    tokens,
    transfers,
)

BLUEPRINTS = (
    health.bp,
    accounts.bp,
    tokens.bp,
    plans.bp,
    images.bp,
    blobs.bp,
    nodes.bp,
    containers.bp,
    power.bp,
    mobility.bp,
    checkpoints.bp,
    transfers.bp,
    reading.bp,
    operations.bp,
    events.bp,
)


def register(app: APIFlask) -> None:
    """Put the API into an app."""
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint, url_prefix="/v1")
