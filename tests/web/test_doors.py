"""Every route: closed without a token, closed to other tenants, and answering what the OpenAPI document says."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate

from hostler.store.models import Operation
from hostler.web.auth.access import Access, access_of
from hostler.web.panel import Panel
from tests.web.fixtures import World
from tests.web.fleet import Fleet, Server
from tests.web.test_containers import WEB, ended
from tests.web.test_transfers import checkpoint_file

PUBLIC = {("get", "/v1/health")}
TICKET = {("get", "/v1/blobs/{digest}"), ("put", "/v1/blobs"), ("get", "/v1/transfers/{operation_id}"), ("put", "/v1/transfers/{operation_id}")}


def routes(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Method and path of all that the document lists."""
    return [(method, path) for path, methods in document["paths"].items() for method in methods]


def filled(path: str, **names: str) -> str:
    """A path with its arguments."""
    known = {"checkpoint_id": "none", "name": "web", "operation_id": "none", "token_id": "none", "digest": "sha256:" + "0" * 64} | names
    for key, value in known.items():
        path = path.replace("{" + key + "}", value)
    return path


def test_the_document_is_valid_and_lists_every_route(world: World) -> None:
    document = world.alice.get("/v1/openapi.json")
    validate(document)
    listed = set(routes(document))
    for rule in world.app.url_map.iter_rules():
        if rule.endpoint.startswith("front."):
            continue
        path = rule.rule.replace("<", "{").replace(">", "}")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert (method.lower(), path) in listed
    ids = [document["paths"][path][method]["operationId"] for method, path in listed]
    assert len(ids) == len(set(ids))


def test_no_route_opens_without_a_token(world: World) -> None:
    document = world.alice.get("/v1/openapi.json")
    for method, path in routes(document):
        for headers in ({}, {"Authorization": "Bearer hst_wrong"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}):
            response = world.app.test_client().open(filled(path), method=method.upper(), headers=headers)
            if (method, path) in PUBLIC:
                assert response.status_code == 200
            elif (method, path) in TICKET:
                assert response.status_code == 422, "a ticket is missing"
            else:
                assert response.status_code == 401, (method, path, headers)
                assert response.mimetype == "application/problem+json" and response.json is not None
                assert response.json["code"] == "unauthenticated" and "WWW-Authenticate" in response.headers
            assert document["paths"][path][method]["security"] == ([] if (method, path) in PUBLIC | TICKET else [{"token": []}])


def test_a_view_without_a_mark_asks_for_a_token(world: World) -> None:
    def forgotten() -> str:
        return "secret"

    assert access_of(forgotten) is Access.ACCOUNT
    world.app.view_functions["health.show_health"] = forgotten
    assert world.app.test_client().get("/v1/health").status_code == 401


def test_another_tenants_things_do_not_exist(world: World, fleet: Fleet) -> None:
    operation = ended(world.alice, world.alice.post("/v1/containers", WEB))
    token = world.alice.post("/v1/tokens", {"name": "mine"}, 201)
    container = world.alice.get("/v1/containers/web")
    checkpoint = ended(world.alice, world.alice.post("/v1/containers/web/checkpoints"))["request"]["checkpoint"]
    names = {"operation_id": operation["id"], "token_id": token["id"], "checkpoint_id": checkpoint}
    bodies: dict[str, Any] = {
        "exec": {"args": ["id"]}, "resize": {"memory": "64M"}, "restore": {"checkpoint": checkpoint}, "clone": {"checkpoint": checkpoint, "name": "web2"},
    }  # fmt: skip
    touched = 0
    for method, path in routes(world.alice.get("/v1/openapi.json")):
        if "{" not in path or (method, path) in TICKET or path.startswith(("/v1/plans", "/v1/accounts", "/v1/nodes", "/v1/images")):
            continue
        for name in ("web", container["id"]):
            response = world.mallory(method.upper(), filled(path, name=name, **names), bodies.get(path.rsplit("/", 1)[1]))
            assert response.status_code == 404, (method, path, response.get_data(as_text=True))
            touched += 1
    assert touched >= 50
    for listing in ("containers", "operations", "events", "checkpoints"):
        assert world.mallory.get(f"/v1/{listing}")["items"] == []
    assert [item["name"] for item in world.mallory.get("/v1/tokens")["items"]] == ["test"]
    assert world.mallory.post("/v1/tokens", {"name": "x", "account": "alice"}, 404)["code"] == "not_found"
    assert world.alice.get("/v1/containers/web")["state"] == "running", "nothing was touched"
    assert world.provider.get(f"/v1/containers/{container['id']}")["account"] == "alice", "the provider sees it by its id"


def test_the_providers_doors_are_closed_to_tenants(world: World) -> None:
    document = world.alice.get("/v1/openapi.json")
    provider_only = {
        (method, path) for method, path in routes(document) if document["paths"][path][method].get("description", "").startswith("For the provider only.")
    }
    assert len(provider_only) == 10
    for method, path in provider_only:
        response = world.alice(method.upper(), filled(path), {} if method == "post" else None)
        assert response.status_code == 403 and response.json is not None and response.json["code"] == "provider_only"


def strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not list: an answer must not tell what the document hides."""
    if isinstance(schema, dict):
        made = {key: strict(value) for key, value in schema.items()}
        if made.get("type") == "object" and "properties" in made:
            made["additionalProperties"] = False
        return made
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


class Checked:
    """Calls the API and holds each answer against the document."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.document = strict(copy.deepcopy(world.alice.get("/v1/openapi.json")))
        self.seen: set[tuple[str, str, str]] = set()

    def __call__(self, who: str, method: str, path: str, body: Any = None, *, names: dict[str, str] | None = None, query: str = "", **kwargs: Any) -> Any:
        response = getattr(self.world, who)(method.upper(), filled(path, **(names or {})) + query, body, **kwargs)
        described = self.document["paths"][path][method]["responses"]
        status = str(response.status_code)
        assert status in described, (method, path, status, response.get_data(as_text=True)[:300])
        self.seen.add((method, path, status))
        if status == "204":
            assert not response.data
            return None
        content = described[status]["content"]
        assert response.mimetype in content, (method, path, status, response.mimetype)
        if "json" not in response.mimetype:
            return response
        schema = content[response.mimetype]["schema"] | {"components": self.document["components"]}
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(response.json)
        return response.json


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_every_routes_real_answers_are_as_the_document_says(world: World, beta: Server) -> None:
    call = Checked(world)
    call("alice", "get", "/v1/health")
    call("alice", "get", "/v1/account")
    call("provider", "post", "/v1/accounts", {"name": "bob"})
    call("provider", "post", "/v1/accounts", {"name": "bob"})
    call("provider", "get", "/v1/accounts")
    call("provider", "get", "/v1/accounts/{name}", names={"name": "bob"})
    call("provider", "get", "/v1/accounts/{name}", names={"name": "nobody"})
    call("provider", "post", "/v1/accounts/{name}/share", {"cpu_weight": 300}, names={"name": "bob"})
    call("provider", "post", "/v1/accounts/{name}/share", {"cpu_weight": 0}, names={"name": "bob"})
    token = call("provider", "post", "/v1/tokens", {"name": "for bob", "account": "bob", "lifetime": 3600})
    call("provider", "get", "/v1/tokens", query="?account=*")
    call("provider", "delete", "/v1/tokens/{token_id}", names={"token_id": token["id"]})
    call("provider", "post", "/v1/plans", {"name": "tiny", "limits": {"memory": "64M", "io": {"read_bps": "1M"}}, "drivers": {"storage": "btrfs"}})
    call("alice", "get", "/v1/plans")
    call("provider", "get", "/v1/plans")
    call("provider", "get", "/v1/plans/{name}", names={"name": "tiny"})
    call("provider", "delete", "/v1/plans/{name}", names={"name": "tiny"})
    call("provider", "get", "/v1/nodes")
    call("provider", "get", "/v1/nodes/{name}", names={"name": "alpha"})
    archive = b"an archive"
    call("alice", "post", "/v1/images", query="?name=own", data=archive)
    imported = call("alice", "get", "/v1/operations", query="?container=own")["items"][0]
    ended(world.alice, imported)
    call("alice", "get", "/v1/images")
    call("alice", "get", "/v1/images/{name}", names={"name": "own"})
    ended(world.provider, call("provider", "post", "/v1/images/build", {"name": "made", "recipe": "busybox"}))
    call("alice", "delete", "/v1/images/{name}", names={"name": "own"})
    blob(call)
    ended(world.alice, call("alice", "post", "/v1/containers", WEB))
    call("alice", "post", "/v1/containers", {"name": "Ünusable", "image": "busybox"})
    call("alice", "get", "/v1/containers")
    call("alice", "get", "/v1/containers/{name}")
    call("alice", "get", "/v1/containers/{name}", names={"name": "nothing"})
    call("alice", "get", "/v1/containers/{name}/logs", query="?tail=3")
    call("alice", "get", "/v1/containers/{name}/usage")
    ended(world.alice, call("alice", "post", "/v1/containers/{name}/exec", {"args": ["true"]}))
    for verb in ("stop", "start", "restart"):
        done = ended(world.alice, call("alice", "post", f"/v1/containers/{{name}}/{verb}"))
    ended(world.alice, call("alice", "post", "/v1/containers/{name}/resize", {"cpu": 0.25}))
    memory(call)
    call("alice", "get", "/v1/operations", query="?state=done")
    call("alice", "get", "/v1/operations/{operation_id}", names={"operation_id": done["id"]})
    call("alice", "post", "/v1/operations/{operation_id}/cancel", names={"operation_id": done["id"]})
    call("alice", "get", "/v1/operations/{operation_id}/events", names={"operation_id": done["id"]})
    world.server.hold.clear()
    waiting = call("alice", "delete", "/v1/containers/{name}")
    call("alice", "post", "/v1/operations/{operation_id}/cancel", names={"operation_id": waiting["id"]})
    world.server.hold.set()
    call("alice", "get", "/v1/events", query="?limit=2")
    call("provider", "get", "/v1/events", query="?since=0&account=*")
    good = {(method, path) for method, path, status in call.seen if status.startswith("2")}
    missing = set(routes(call.document)) - good
    assert not missing, f"no good answer was seen of {missing}"


def memory(call: Checked) -> None:
    """Checkpoints and moves."""
    alice = call.world.alice
    call("alice", "get", "/v1/containers/{name}/suspend")
    made = ended(alice, call("alice", "post", "/v1/containers/{name}/checkpoints", {"name": "first"}))
    names = {"checkpoint_id": made["request"]["checkpoint"], "name": "web"}
    call("alice", "get", "/v1/checkpoints", query="?container=web")
    for path in ("", "/manifest", "/verify"):
        call("alice", "get", "/v1/checkpoints/{checkpoint_id}" + path, names=names)
    ended(alice, call("alice", "post", "/v1/containers/{name}/restore", {"checkpoint": names["checkpoint_id"]}))
    ended(alice, call("alice", "post", "/v1/containers/{name}/clone", {"checkpoint": names["checkpoint_id"], "name": "web2"}))
    ended(alice, call("alice", "post", "/v1/containers/{name}/suspend"))
    call("alice", "get", "/v1/containers/{name}/suspend")
    ended(alice, call("alice", "post", "/v1/containers/{name}/resume"))
    transfers(call, names["checkpoint_id"])
    ended(alice, call("alice", "delete", "/v1/checkpoints/{checkpoint_id}", names=names))
    call("alice", "get", "/v1/containers/{name}/migrate")
    call("alice", "get", "/v1/containers/{name}/migrate", query="?to=beta")
    ended(alice, call("alice", "post", "/v1/containers/{name}/migrate", {"to": "beta"}))
    call("alice", "post", "/v1/containers/{name}/migrate", {"to": "gamma"})


def transfers(call: Checked, checkpoint: str) -> None:
    """Checkpoints as files, with tickets as the control worker issues them."""
    panel, server = call.world.app.extensions["hostler"], call.world.server
    assert isinstance(panel, Panel)
    server.hold.clear()
    made = call("alice", "post", "/v1/checkpoints/{checkpoint_id}/export", names={"checkpoint_id": checkpoint})
    names = {"operation_id": made["id"]}
    call("alice", "get", "/v1/operations/{operation_id}/file", names=names)
    put = f"?ticket={panel.tickets.issue('hand in', made['id'])}"
    while call("alice", "get", "/v1/operations/{operation_id}", names=names)["state"] != "running":
        pass
    call("alice", "put", "/v1/transfers/{operation_id}", names=names, query="?ticket=wrong", data=b"exported")
    call("alice", "put", "/v1/transfers/{operation_id}", names=names, query=put, data=b"exported")
    server.hold.set()
    ended(call.world.alice, made)
    call("alice", "put", "/v1/transfers/{operation_id}", names=names, query=put, data=b"too late")
    assert call("alice", "get", "/v1/operations/{operation_id}/file", names=names).data == b"exported"
    call("alice", "delete", "/v1/operations/{operation_id}/file", names=names)
    call("alice", "delete", "/v1/operations/{operation_id}/file", names=names)
    server.hold.clear()
    brought = call("provider", "post", "/v1/checkpoints/import", query="?name=web3&plan=small", data=checkpoint_file())
    call("provider", "post", "/v1/checkpoints/import", query="?name=web3&plan=small", data=checkpoint_file())
    call("provider", "post", "/v1/checkpoints/import", data=b"no checkpoint")
    names = {"operation_id": brought["id"]}
    take = f"?ticket={panel.tickets.issue('take', brought['id'])}"
    assert call("provider", "get", "/v1/transfers/{operation_id}", names=names, query=take).data.startswith(b"HSTLRCKP")
    server.hold.set()
    ended(call.world.provider, brought)
    call("provider", "get", "/v1/transfers/{operation_id}", names=names, query=take)
    ended(call.world.provider, call("provider", "delete", "/v1/containers/{name}", names={"name": "web3"}))


def blob(call: Checked) -> None:
    """The routes for servers, with tickets as the control worker issues them."""
    panel = call.world.app.extensions["hostler"]
    assert isinstance(panel, Panel)
    call.world.server.hold.clear()
    build = call("provider", "post", "/v1/images/build", {"name": "handed-in", "recipe": "busybox"})
    while call("provider", "get", "/v1/operations/{operation_id}", names={"operation_id": build["id"]})["state"] != "running":
        pass
    ticket = panel.tickets.issue("store", build["id"])
    stored = call("provider", "put", "/v1/blobs", query=f"?operation={build['id']}&ticket={ticket}", data=b"built")
    digest = "sha256:" + hashlib.sha256(b"built").hexdigest()
    assert stored == {"digest": digest, "size": 5}
    fetched = call("provider", "get", "/v1/blobs/{digest}", names={"digest": digest}, query=f"?ticket={panel.tickets.issue('fetch', digest)}")
    assert fetched.data == b"built"
    call("provider", "put", "/v1/blobs", query=f"?operation={build['id']}&ticket=wrong", data=b"built")
    call("provider", "get", "/v1/blobs/{digest}", names={"digest": digest}, query=f"?ticket={ticket}")
    with call.world.store.read() as session:
        assert session.get_one(Operation, build["id"]).state == "running"
    call.world.server.hold.set()
