"""Errors say what is wrong, where, and what to do next; hostile input never breaks the panel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import select

from hostler.store.models import Container
from tests.web.fixtures import World
from tests.web.test_containers import WEB

JSON = {"Content-Type": "application/json"}


def test_fields_are_named(world: World) -> None:
    problem = world.alice.post("/v1/containers", {"name": "No", "plan": "small", "limits": {"memory": "lots", "io": {"read_iops": 0}}, "more": 1}, 422)
    fields = {field["field"]: field["message"] for field in problem["fields"]}
    assert set(fields) == {"name", "image", "limits.memory", "limits.io.read_iops", "more"}
    assert "not a size" in fields["limits.memory"] and not fields["limits.memory"].startswith("Value error")
    assert problem["code"] == "invalid" and problem["type"] == "urn:hostler:problem:invalid" and problem["hint"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "bad_request"),
        (b'{"name": NaN}', JSON, 400, "bad_request"),
        (b'{"name": "\\u0000"}', JSON, 400, "bad_request"),
        (b'{"name": "\\ud800"}', JSON, 400, "bad_request"),
        (b'"\xff"', JSON, 400, "bad_request"),
        (b"[" * 100_000, JSON, 400, "bad_request"),
        (b"9" * 5000, JSON, 400, "bad_request"),
        (b"[]", JSON, 422, "invalid"),
        (b"", JSON, 422, "invalid"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b'"' + b"x" * (5 << 20) + b'"', JSON, 413, "too_large"),
    ],
)
def test_what_cannot_be_read(world: World, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    response = world.alice("POST", "/v1/containers", data=body, headers=headers)
    assert response.status_code == status and response.mimetype == "application/problem+json"
    assert response.json is not None and response.json["code"] == code and response.json["hint"]


@pytest.mark.parametrize("limits", [{"memory": "1" * 400}, {"disk": "9" * 5000 + "T"}, {"rate_in": "1" * 400}])
def test_endless_numbers_are_too_large_and_not_repeated(world: World, limits: dict[str, str]) -> None:
    problem = world.alice.post("/v1/containers", WEB | {"limits": limits}, 422)
    assert "too" in problem["fields"][0]["message"] and len(problem["fields"][0]["message"]) < 200


@pytest.mark.parametrize("path", ["/v1/containers/%00", "/v1/containers?name=%00", "/v1/operations/a%00b", "/v1/events?since=-1", "/v1/events?since=9e99"])
def test_addresses_that_no_store_can_look_up(world: World, path: str) -> None:
    assert world.alice("GET", path).status_code in (400, 422)


def test_wrong_addresses_and_methods(world: World) -> None:
    assert world.alice.get("/v1/nothing", 404)["code"] == "not_found"
    response = world.alice("PUT", "/v1/containers")
    assert response.status_code == 405 and "GET" in response.headers["Allow"]
    assert response.json is not None and response.json["code"] == "method_not_allowed"
    assert world.alice.get("/v1/containers?colour=red", 422)["fields"][0]["field"] == "colour"


def test_a_request_carries_an_id(world: World) -> None:
    response = world.alice("GET", "/v1/nothing", headers={"X-Request-Id": "abc-12345"})
    assert response.headers["X-Request-Id"] == "abc-12345" and response.json is not None and response.json["request"] == "abc-12345"
    assert world.alice("GET", "/v1/nothing", headers={"X-Request-Id": "a b\n"[:3]}).headers["X-Request-Id"] != "a b"


def test_the_page_for_people(world: World) -> None:
    response = world.app.test_client().get("/")
    text, policy = response.get_data(as_text=True), response.headers["Content-Security-Policy"]
    assert response.status_code == 200 and "default-src 'none'" in policy
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert f'<style nonce="{nonce}">' in text and "<script" not in text and "src=" not in text and "http" not in text.replace("https://", "http")[:50]
    assert "alice" not in text and nonce not in world.app.test_client().get("/").get_data(as_text=True)


values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(2**70), 2**70)
    | strategies.floats()
    | strategies.text(max_size=80)
    | strategies.sampled_from(["web", "small", "busybox", "512M", "1e400", "-1", "A=b", "0-1", "\0", "\ud800", "1" * 5000]),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
limits = strategies.dictionaries(strategies.sampled_from(["cpu", "cpu_weight", "cpus", "memory", "memory_guarantee", "swap", "pids", "disk", "io", "rate_in", "io_weight", "x"]), values)
bodies = strategies.fixed_dictionaries(
    {},
    optional={
        "name": values | strategies.from_regex(r"[a-z0-9]{1,8}", fullmatch=True),
        "image": values | strategies.just("busybox"),
        "plan": values | strategies.just("small"),
        "args": values | strategies.lists(strategies.text(max_size=20)),
        "env": values | strategies.lists(strategies.text(max_size=20).map(lambda text: f"A={text}")),
        "cwd": values,
        "user": values,
        "limits": values | limits,
        "extra": values,
    },
)


@given(body=bodies | values | limits.map(lambda change: WEB | {"name": "hostile", "limits": change}))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_hostile_requests_are_refused_or_taken_but_never_break_the_panel(world: World, body: Any) -> None:
    for caller in (world.alice, world.provider):
        response = caller("POST", "/v1/containers", data=json.dumps(body), headers=JSON)
        assert response.status_code in (202, 400, 403, 404, 409, 422), response.get_data(as_text=True)
        if response.status_code == 202:
            with world.store.write() as session:
                for row in session.scalars(select(Container)):
                    session.delete(row)
        else:
            assert response.json is not None and response.json["code"] != "internal"
