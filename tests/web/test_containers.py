"""Containers through the API, with the real control side behind it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from hostler.core.errors import HostFailure
from tests.web.fixtures import Caller, World
from tests.web.fleet import Fleet

WEB = {"name": "web", "image": "busybox", "plan": "small"}


def ended(caller: Caller, operation: dict[str, Any]) -> dict[str, Any]:
    """Wait for an operation's end."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        shown: dict[str, Any] = caller.get(f"/v1/operations/{operation['id']}")
        if shown["ended_at"]:
            return shown
        time.sleep(0.02)
    raise AssertionError("the operation did not end")


def test_a_container_from_its_request_to_its_end(world: World, fleet: Fleet) -> None:
    response = world.alice("POST", "/v1/containers", WEB | {"env": ["A=b"]})
    assert response.status_code == 202
    operation = response.json
    assert operation is not None
    assert response.headers["Location"] == f"/v1/operations/{operation['id']}"
    assert (operation["kind"], operation["state"], operation["asked_by"]) == ("provision", "queued", "alice/test")
    done = ended(world.alice, operation)
    assert done["state"] == "done" and done["progress"] == 1
    assert "ticket" not in json.dumps(done), "steps' payloads hold tickets"
    shown = world.alice.get("/v1/containers/web")
    assert (shown["state"], shown["node"], shown["address_v4"], shown["address_v6"]) == ("running", "alpha", "198.18.1.1", "fd00:686f:7374::c612:101")
    assert shown["ports"] == ["80/tcp"] and shown["operation"] is None and shown["limits"]["memory"] == 256 << 20
    stopped = ended(world.alice, world.alice.post("/v1/containers/web/stop", {"grace": 2}))
    assert stopped["request"] == {"grace": 2}
    assert world.alice.get("/v1/containers/web")["state"] == "stopped"
    ended(world.alice, world.alice.post("/v1/containers/web/start"))
    resized = ended(world.alice, world.alice.post("/v1/containers/web/resize", {"memory": "128M"}))
    assert resized["request"] == {"change": {"memory": 128 << 20}}
    assert world.alice.get("/v1/containers/web")["limits"]["memory"] == 128 << 20
    ended(world.alice, world.alice.delete("/v1/containers/web"))
    assert world.alice.get("/v1/containers/web", 404)["code"] == "not_found"
    assert world.alice.get("/v1/nodes", 403)["code"] == "provider_only"
    assert world.provider.get("/v1/nodes/alpha")["containers"] == 0


def test_a_command_runs_inside(world: World, fleet: Fleet) -> None:
    ended(world.alice, world.alice.post("/v1/containers", WEB))
    operation = ended(world.alice, world.alice.post("/v1/containers/web/exec", {"args": ["cat", "-"], "stdin": "hello", "env": ["SECRET=1"]}))
    assert operation["result"]["exit_code"] == 1 and operation["result"]["stdout"] == "HELLO"
    assert operation["request"] == {"args": ["cat", "-"]}, "a command's input and environment are not shown"


def test_logs_and_usage_are_asked_of_the_server(world: World, fleet: Fleet) -> None:
    assert world.alice.post("/v1/containers", WEB)["state"] == "queued"
    deadline = time.monotonic() + 10
    while world.alice.get("/v1/containers/web")["state"] != "running":
        assert time.monotonic() < deadline
    world.server.lines += ["one", "two", "three"]
    page = world.alice.get("/v1/containers/web/logs?tail=2")
    assert [line["text"] for line in page["lines"]] == ["two", "three"]
    world.server.lines.append("four")
    assert [line["text"] for line in world.alice.get(f"/v1/containers/web/logs?cursor={page['cursor']}")["lines"]] == ["four"]
    stream = world.alice("GET", "/v1/containers/web/logs?follow=1&tail=1", buffered=False)
    chunks = stream.iter_encoded()
    assert next(chunks).startswith(b":")
    first = next(chunks).decode()
    assert first.startswith("event: lines\ndata: ") and json.loads(first.split("data: ")[1])["lines"][0]["text"] == "four"
    world.server.lines.append("five")
    assert json.loads(next(chunks).decode().split("data: ")[1])["lines"][0]["text"] == "five"
    stream.close()
    usage = world.alice.get("/v1/containers/web/usage")
    assert usage["memory"] == 1 << 20 and usage["running"]


def late() -> dict[str, Any]:
    """An answer that comes too late."""
    time.sleep(0.6)
    return {}


def test_a_server_that_does_not_answer_is_named(world: World, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(world.alice, world.alice.post("/v1/containers", WEB))
    monkeypatch.setattr("hostler.broker.Broker.ask.__defaults__", (0.2,))
    monkeypatch.setattr(world.server, "answer", lambda question, args: late())
    problem = world.alice.get("/v1/containers/web/usage", 503)
    assert problem["code"] == "node_silent" and "alpha" in problem["detail"]


def test_an_operation_is_followed_until_it_fails(world: World, fleet: Fleet) -> None:
    world.server.fail["start"] = HostFailure("no such program", hint="check the image")
    world.server.hold.clear()
    operation = world.alice.post("/v1/containers", WEB)
    stream = world.alice("GET", f"/v1/operations/{operation['id']}/events", buffered=False)
    states: list[str] = []
    for chunk in stream.iter_encoded():
        text = chunk.decode()
        if text.startswith("event: operation"):
            states.append(json.loads(text.split("data: ")[1])["state"])
            if states[-1] == "running":
                world.server.hold.set()
    assert states[-1] == "failed" and "running" in states
    failed = world.alice.get(f"/v1/operations/{operation['id']}")
    assert failed["error"]["message"] == "no such program" and failed["error"]["hint"] == "check the image"
    assert {step["name"]: step["state"] for step in failed["steps"]}["volume"] == "undone"
    assert world.alice.get("/v1/containers")["items"] == []
    kinds = [event["kind"] for event in world.alice.get("/v1/events")["items"]]
    assert kinds == ["operation_failed"]


def test_a_waiting_operation_can_be_cancelled(world: World, fleet: Fleet) -> None:
    ended(world.alice, world.alice.post("/v1/containers", WEB))
    world.server.hold.clear()
    first = world.alice.post("/v1/containers/web/stop")
    second = world.alice.post("/v1/containers/web/start")
    assert world.alice.get("/v1/containers/web")["operation"]["id"] == first["id"]
    cancelled = world.alice.post(f"/v1/operations/{second['id']}/cancel")
    assert cancelled["cancel_asked"]
    world.server.hold.set()
    assert ended(world.alice, first)["state"] == "done"
    assert ended(world.alice, second)["state"] == "cancelled"
    assert world.alice.post(f"/v1/operations/{second['id']}/cancel", status=409)["code"] == "wrong_state"


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"memory": "512M"}, 403), ({"memory": None}, 403), ({"cpus": "0"}, 403), ({"cpu_weight": 200}, 403), ({"io": {}}, 202), ({"memory": "64M"}, 202)],
)
def test_a_tenant_stays_within_the_plan(world: World, limits: dict[str, Any], status: int) -> None:
    answer = world.alice.post("/v1/containers", WEB | {"limits": limits}, status)
    if status == 403:
        assert answer["code"] == "plan_exceeded" and next(iter(limits)) in answer["detail"]
    else:
        answer = world.alice.post("/v1/containers/web/resize", {"memory": "1G"}, 403)
        assert answer["code"] == "plan_exceeded"
    world.provider.post("/v1/containers", WEB | {"limits": limits})


def test_without_a_broker_the_request_is_kept(world: World) -> None:
    world.settings.redis_socket = world.settings.home / "gone.sock"
    operation = world.alice.post("/v1/containers", WEB)
    assert world.alice.get(f"/v1/operations/{operation['id']}")["state"] == "queued"
    health = world.alice.get("/v1/health")
    assert health["status"] == "degraded" and not health["broker"] and health["store"]
    stream = world.alice("GET", f"/v1/operations/{operation['id']}/events", buffered=False)
    chunks = stream.iter_encoded()
    next(chunks)
    assert b"queued" in next(chunks), "a stream falls back to looking at the row"
    stream.close()


def test_lists_are_cut_into_pages_and_filtered(world: World) -> None:
    for number in range(7):
        world.alice.post("/v1/containers", WEB | {"name": f"web-{number}"})
    world.mallory.post("/v1/containers", WEB)
    seen, after = [], ""
    while True:
        page = world.alice.get(f"/v1/containers?limit=3{after}")
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [f"web-{number}" for number in range(7)]
    assert [item["name"] for item in world.alice.get("/v1/containers?name=web-3")["items"]] == ["web-3"]
    assert world.alice.get("/v1/containers?name=%25")["items"] == []
    assert world.alice.get("/v1/containers?node=alpha")["items"] == []
    assert len(world.alice.get("/v1/containers?state=provisioning")["items"]) == 7
    assert world.alice.get("/v1/containers?after=nonsense", 422)["code"] == "bad_cursor"
    assert world.alice.get("/v1/containers?account=*", 404)["code"] == "not_found"
    assert len(world.provider.get("/v1/containers?account=*")["items"]) == 8
    assert [item["account"] for item in world.provider.get("/v1/containers?account=mallory")["items"]] == ["mallory"]
    assert len(world.alice.get("/v1/operations?container=web-1")["items"]) == 1
    newest = world.alice.get("/v1/operations?limit=2")
    assert [item["target"] for item in newest["items"]] == ["web-6", "web-5"]
    assert world.alice.get(f"/v1/operations?limit=2&after={newest['next']}")["items"][0]["target"] == "web-4"
