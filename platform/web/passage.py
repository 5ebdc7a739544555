"""What every request passes on its way in and out: an id, the checks at the door, a line in the log, the headers of caution."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from apiflask import APIFlask
from flask import Response, current_app, g, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from hostler.web.auth import bearer
from hostler.web.strict import reads_as_text

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_CSP = "default-src 'none'; frame-ancestors 'none'"


def register(app: APIFlask) -> None:
    """Put the passage around all views of an app, in this order."""
    app.before_request(_begin)
    app.before_request(bearer.guard)
    app.before_request(_check_form)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    g.began = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process="panel", request=g.request_id)
    if not reads_as_text(request.path) or not all(reads_as_text(text) for pair in request.args.items(multi=True) for text in pair):
        raise BadRequest


def _check_form() -> None:
    """A body that will be read as JSON must say that it is."""
    if request.endpoint is None:
        return
    spec: dict[str, object] = getattr(current_app.view_functions[request.endpoint], "_spec", {})
    sent = bool(request.content_length) or "chunked" in request.headers.get("Transfer-Encoding", "")
    if spec.get("content_type") == "application/json" and request.method in ("POST", "PUT", "PATCH") and sent and not request.is_json:
        raise UnsupportedMediaType


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers.setdefault("Content-Security-Policy", _CSP)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-store")
    took = round((time.perf_counter() - g.began) * 1000, 1)
    log.info("request", method=request.method, path=request.path, status=response.status_code, ms=took)
    return response
