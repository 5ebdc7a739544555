"""The page at ``/``: what this is, and whether it works. It knows nothing of tenants."""

from __future__ import annotations

import secrets
from typing import cast

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, jsonify, make_response, render_template

from hostler.web.api.health import examine
from hostler.web.auth.access import Access, access

_DOCUMENT = "hostler_openapi"

bp = APIBlueprint("front", __name__, enable_openapi=False)


@bp.get("/")
@access(Access.PUBLIC)
def show_front() -> Response:
    """One page, self-contained: its style is allowed by a nonce and nothing else is."""
    nonce = secrets.token_urlsafe(16)
    response = make_response(render_template("front.html", health=examine(), nonce=nonce))
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return response


@bp.get("/v1/openapi.json")
@access(Access.PUBLIC)
def show_openapi() -> Response:
    """The OpenAPI document."""
    app = cast(APIFlask, current_app)
    if _DOCUMENT not in app.extensions:
        app.extensions[_DOCUMENT] = app.spec  # takes a tenth of a second to make
    return jsonify(app.extensions[_DOCUMENT])
