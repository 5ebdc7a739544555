"""The OpenAPI document: made from the routes and their pydantic models, so that it cannot say what the code does not do.

APIFlask knows the routes; pydantic knows the models. Requests are described as they are read (sizes as text or
numbers), answers as they are written, each model once and under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from apiflask import APIFlask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hostler.core import api
from hostler.core.limits import LimitsChange
from hostler.web.auth.access import Access, access_of

F = TypeVar("F", bound=Callable[..., Any])

_TAKES_ARCHIVE = "hostler_takes_archive"
_REF = "#/components/schemas/{model}"
_METHODS = ("get", "post", "put", "delete")
_REQUESTS: tuple[type[BaseModel], ...] = (
    api.AccountIn,
    api.AccountShareIn,
    api.TokenIn,
    api.PlanIn,
    api.ImageBuildIn,
    api.ContainerIn,
    api.StopIn,
    api.RestartIn,
    api.ResumeIn,
    api.MigrateIn,
    api.CheckpointIn,
    api.RestoreIn,
    api.CloneIn,
    api.ExecIn,
    LimitsChange,
)
_ANSWERS: tuple[type[BaseModel], ...] = (
    api.Problem,
    api.Health,
    api.AccountOut,
    api.AccountPage,
    api.TokenPage,
    api.TokenMade,
    api.PlanOut,
    api.PlanPage,
    api.ImageOut,
    api.ImagePage,
    api.Blob,
    api.NodeOut,
    api.NodePage,
    api.ContainerOut,
    api.ContainerPage,
    api.OperationOut,
    api.OperationPage,
    api.CheckpointOut,
    api.CheckpointPage,
    api.CheckpointInspection,
    api.CheckpointVerification,
    api.SuspendCheck,
    api.MigrateCheck,
    api.LogPage,
    api.UsageOut,
    api.EventPage,
)
_DESCRIPTION = (
    "Tenant containers on a provider's own servers. Every change answers `202` with an operation; follow it at "
    "`/v1/operations/{operation_id}/events`. Send an `Idempotency-Key` with a change and it is done once, however often it is asked. "
    "Errors are problem documents (RFC 9457) with a stable `code` and a `hint`."
)
#: Problems by status, and on which operations they are documented.
_ALWAYS = {"500": "A defect of the platform.", "503": "The store, the broker or a server cannot be reached now."}
_WITH_TOKEN = {"401": "No token, or one that is unknown, revoked or expired.", "403": "The token's account may not do this."}
_WITH_PATH = {"404": "It does not exist, or belongs to another account."}
_WITH_INPUT = {"400": "The request cannot be read.", "422": "The request does not fit; `fields` say where."}
_ON_CHANGE = {"409": "Its state, or another request, does not allow this now.", "413": "The request is too large.", "415": "The media type is not understood."}


def takes_archive(view: F) -> F:
    """Mark a view whose request body is an archive."""
    setattr(view, _TAKES_ARCHIVE, True)
    return view


#: APIFlask's shape of additional responses.
Responses = dict[int | str, dict[str, str | dict[str, dict[str, Any]]]]


def raw(media_type: str, description: str) -> Responses:
    """The 200 response of a view that answers with something other than one of our models."""
    schema = {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}
    return {200: {"description": description, "content": {media_type: {"schema": schema}}}}


def also(status: int, model: type[BaseModel], description: str) -> Responses:
    """Another status with which a view answers one of our models."""
    return {status: {"description": description, "content": {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}}}


def configure(app: APIFlask) -> None:
    """Tell APIFlask how our document is made."""
    app.config.update(
        OPENAPI_VERSION="3.1.0",
        INFO={"description": _DESCRIPTION},
        SECURITY_SCHEMES={"token": {"type": "http", "scheme": "bearer", "description": "A token of `POST /v1/tokens`."}},
        AUTO_SERVERS=False,
        AUTO_OPERATION_ID=True,
        AUTO_200_RESPONSE=False,
        AUTO_404_RESPONSE=False,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
    )

    @app.spec_processor
    def finish(document: dict[str, Any] | str) -> dict[str, Any] | str:
        return document if isinstance(document, str) else _finished(app, document)


def _finished(app: APIFlask, document: dict[str, Any]) -> dict[str, Any]:
    views = _views(app)
    _name_models(document)
    document["tags"] = list({tag["name"]: tag for tag in document["tags"]}.values())  # blueprints may share one
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                _complete(methods[method], path, method, views[path, method])
    return document


def _views(app: APIFlask) -> dict[tuple[str, str], Callable[..., Any]]:
    """Views by the document's path and method."""
    found: dict[tuple[str, str], Callable[..., Any]] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        for method in rule.methods or ():
            found[path, method.lower()] = app.view_functions[rule.endpoint]
    return found


def _name_models(document: dict[str, Any]) -> None:
    """Put pydantic's own schemas in place of those that APIFlask derived, and point the references at them."""
    refs, made = models_json_schema(
        [*((model, "validation") for model in _REQUESTS), *((model, "serialization") for model in _ANSWERS)], ref_template=_REF
    )
    schemas: dict[str, Any] = made["$defs"]
    targets = {model.__name__: ref["$ref"].rsplit("/", 1)[1] for (model, _), ref in refs.items()}
    derived: dict[str, Any] = document["components"]["schemas"]
    for name, schema in derived.items():
        if name.split(".")[0].endswith("Query"):  # part of a query's model, which APIFlask names Query.Part; ours is just Part
            targets[name] = name.rsplit(".", 1)[-1]
            schemas.setdefault(targets[name], schema)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    _repoint(document["paths"], targets)


def _repoint(node: Any, targets: dict[str, str]) -> None:
    """Follow every reference in ``node`` to the schema's own name. KeyError: a route speaks of a model that is not listed above."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            node["$ref"] = _REF.format(model=targets[node["$ref"].rsplit("/", 1)[1]])
        for value in node.values():
            _repoint(value, targets)
    elif isinstance(node, list):
        for value in node:
            _repoint(value, targets)


def _complete(operation: dict[str, Any], path: str, method: str, view: Callable[..., Any]) -> None:
    """What APIFlask cannot know: security, bodies that are archives, keys, problems."""
    level = access_of(view)
    operation["security"] = [{"token": []}] if level in (Access.ACCOUNT, Access.PROVIDER) else []
    if level is Access.PROVIDER:
        operation["description"] = ("For the provider only. " + operation.get("description", "")).strip()
    if getattr(view, _TAKES_ARCHIVE, False):
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    if method in ("post", "delete"):
        operation.setdefault("parameters", []).append(_IDEMPOTENCY)
    for status, said in _problems(operation, path, method, level).items():
        known = operation["responses"].get(status, {}).get("content", {})
        operation["responses"].setdefault(status, {"description": said})["content"] = known | {
            "application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}
        }
    if operation["responses"].get("202"):
        operation["responses"]["202"]["headers"] = {"Location": {"description": "The operation.", "schema": {"type": "string"}}}


def _problems(operation: dict[str, Any], path: str, method: str, level: Access) -> dict[str, str]:
    found = dict(_ALWAYS)
    if level in (Access.ACCOUNT, Access.PROVIDER):
        found |= _WITH_TOKEN
    if level is Access.TICKET:
        found |= {"403": "The ticket is not good for this.", "404": "There is no such archive."}
    if "{" in path or "account" in {parameter.get("name") for parameter in operation.get("parameters", [])}:
        found |= _WITH_PATH
    if operation.get("parameters") or operation.get("requestBody"):
        found |= _WITH_INPUT
    if method != "get":
        found |= _ON_CHANGE
    if method == "get" and path.endswith(("/logs", "/usage", "/suspend", "/migrate", "/manifest", "/verify", "/file")):
        found |= {"409": "Its state does not allow this.", "502": "The server failed."}
    if path == "/v1/containers":
        found |= {"404": "There is no such image, plan or account."}
    return found


_IDEMPOTENCY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "With the same key and the same request the first answer is given again and nothing else is done. Kept for a day.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
}
