"""Answers: pydantic models as JSON responses, written once."""

from __future__ import annotations

from flask import Response
from pydantic import BaseModel


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A model as a response."""
    response = Response(body.model_dump_json(), status=status, mimetype="application/json")
    response.headers.update(headers or {})
    return response
