"""Errors as RFC 9457 problem documents. Nothing of the platform's insides is told; the log has it under the request's id."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from apiflask import APIFlask, HTTPError
from flask import Response, g, has_request_context, request
from werkzeug.exceptions import HTTPException

from hostler.core.api import FieldProblem, Problem
from hostler.core.errors import HostlerError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

#: Of errors that the web framework finds: status → (code, detail, hint).
_FRAMEWORK: dict[int, tuple[str, str, str]] = {
    400: ("bad_request", "the request cannot be read", "send JSON in UTF-8, as the OpenAPI document at /v1/openapi.json says"),
    404: ("not_found", "there is nothing at this address", "the OpenAPI document at /v1/openapi.json lists what there is"),
    405: ("method_not_allowed", "this address does not know that method", "the Allow header says which it knows"),
    408: ("incomplete", "the request broke off before its end", "send it again"),
    413: ("too_large", "the request is larger than allowed", "send less; HOSTLER_IMAGE_LIMIT bounds archives"),
    415: ("unsupported_media_type", "the request's media type is not understood here", "send Content-Type: application/json"),
    416: ("bad_range", "the file does not have that range", "ask for the whole file"),
    422: ("invalid", "the request does not fit", "the fields say what to change"),
}


def problem(error: HostlerError, fields: list[FieldProblem] | None = None) -> Problem:
    """A domain error as a problem."""
    return _make(error.http_status, error.stable_code, error.message, error.hint, fields)


def internal(request_id: str) -> Problem:
    """A bug, as whoever asked may know of it."""
    hint = f"tell your provider the request's id: {request_id}"
    made = _make(500, "internal", "something unexpected went wrong inside the panel", hint)
    return made.model_copy(update={"request": request_id})


def answer(found: Problem, headers: dict[str, str] | None = None) -> Response:
    """A problem as a response."""
    response = Response(found.model_dump_json(), status=found.status, mimetype=MEDIA_TYPE)
    response.headers.update(headers or {})
    if found.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="hostler"'
    if found.status == 503:
        response.headers["Retry-After"] = "2"
    return response


def register(app: APIFlask) -> None:
    """Let every error of an app leave as a problem."""
    app.error_processor(_framework_error)
    app.register_error_handler(HostlerError, _expected)
    app.register_error_handler(Exception, _bug)


def _make(status: int, code: str, detail: str, hint: str, fields: list[FieldProblem] | None = None) -> Problem:
    return Problem(
        type=f"urn:hostler:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        request=_request_id(),
        fields=fields or [],
    )


def _request_id() -> str:
    """The request's id; none in a stream, which outlives its request."""
    return str(g.get("request_id", "")) if has_request_context() else ""


def _expected(error: HostlerError) -> Response:
    if error.http_status >= 500:
        log.warning("request failed", code=error.stable_code, message=error.message, path=request.path)
    return answer(problem(error))


def _framework_error(error: HTTPError) -> Response:
    status = int(error.status_code)
    code, detail, hint = _FRAMEWORK.get(status, (_phrase(status).lower().replace(" ", "_"), _phrase(status), ""))
    fields = [
        FieldProblem(field=_field(path), message=message.removeprefix("Value error, "))
        for by_path in _details(error).values()
        for path, messages in by_path.items()
        for message in messages
    ]
    return answer(_make(status, code, detail, hint, fields), _headers(error))


def _headers(error: HTTPError) -> dict[str, str]:
    """Such as Allow, which a 405 must have."""
    return {name: str(value) for name, value in dict(error.headers or {}).items()}


def _details(error: HTTPError) -> dict[str, dict[str, list[str]]]:
    """What APIFlask collected of a request that does not fit its model: by place, then by field."""
    return error.detail if isinstance(error.detail, dict) else {}


def _field(path: str) -> str:
    return "" if path == "_schema" else path


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _bug(error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.code is not None:
        return _framework_error(HTTPError(error.code, message=error.name))
    log.exception("bug", path=request.path, method=request.method)
    return answer(internal(g.get("request_id", "")))
