"""Whether the panel works, for load balancers and people."""

from __future__ import annotations

import time
from importlib.metadata import version

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import text

from hostler.core.api import Health
from hostler.core.errors import Unavailable
from hostler.web.answers import answer
from hostler.web.auth.access import Access, access
from hostler.web.openapi import also
from hostler.web.panel import panel

bp = APIBlueprint("health", __name__, tag="Health")


def examine() -> Health:
    """Ask the store and the broker."""
    began = time.perf_counter()
    store = _store_answers()
    took = (time.perf_counter() - began) * 1000
    broker = panel().broker.is_up()
    state = "down" if not store else "ok" if broker else "degraded"
    return Health.model_validate(
        {"status": state, "version": version("hostler"), "store": store, "broker": broker, "store_ms": round(took, 2) if store else None}
    )


def _store_answers() -> bool:
    try:
        with panel().store.read() as session:
            session.execute(text("SELECT 1 FROM accounts LIMIT 1"))
    except Unavailable:
        return False
    return True


@bp.get("/health")
@bp.output(Health)
@bp.doc(responses=also(503, Health, "The store does not answer."))
@access(Access.PUBLIC)
def show_health() -> Response:
    """Whether the panel, its store and its broker work

    Answers 503 only when the store is gone. Without a broker requests are still written down: `degraded`.
    """
    health = examine()
    return answer(health, 503 if health.status == "down" else 200)
