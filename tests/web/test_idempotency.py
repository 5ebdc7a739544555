"""One key, one change: whoever asks, however often, and at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from hostler.core.errors import HostFailure
from hostler.operations import requests
from hostler.store.models import Container, IdempotencyKey, Operation
from tests.web.fixtures import Caller, World
from tests.web.test_containers import WEB

KEY = {"Idempotency-Key": "one"}


def count(world: World, model: Any) -> int:
    """Rows of a table."""
    with world.store.read() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_the_same_request_again_gets_the_same_answer(world: World) -> None:
    first = world.alice("POST", "/v1/containers", WEB, headers=KEY)
    again = world.alice("POST", "/v1/containers", WEB, headers=KEY)
    assert first.status_code == again.status_code == 202 and first.json == again.json
    assert again.headers["Idempotency-Replayed"] == "true" and again.headers["Location"] == first.headers["Location"]
    assert count(world, Operation) == 1


def test_another_request_under_the_same_key_is_refused(world: World) -> None:
    world.alice.post("/v1/containers", WEB, headers=KEY)
    assert world.alice.post("/v1/containers", WEB | {"name": "other"}, 422, headers=KEY)["code"] == "idempotency_mismatch"
    assert world.alice.post("/v1/containers/web/start", None, 422, headers=KEY)["code"] == "idempotency_mismatch"
    world.mallory.post("/v1/containers", WEB, headers=KEY)
    assert count(world, Container) == 2, "keys are an account's own"


def test_a_refusal_is_an_answer_too(world: World) -> None:
    first = world.alice.post("/v1/containers", WEB | {"plan": "none"}, 404, headers=KEY)
    assert world.alice.post("/v1/containers", WEB | {"plan": "none"}, 404, headers=KEY) == first
    assert first["code"] == "unknown_plan" and count(world, Container) == 0


@pytest.mark.parametrize("error", [HostFailure("disk on fire"), ZeroDivisionError()])
def test_a_request_that_failed_is_not_remembered(world: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = requests.create

    def breaks(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        raise error

    monkeypatch.setattr(requests, "create", breaks)
    problem = world.alice.post("/v1/containers", WEB, 500 if isinstance(error, ZeroDivisionError) else 502, headers=KEY)
    assert "ZeroDivision" not in str(problem) and problem["request"]
    assert count(world, IdempotencyKey) == count(world, Container) == count(world, Operation) == 0
    monkeypatch.setattr(requests, "create", real)
    world.alice.post("/v1/containers", WEB, headers=KEY)


def test_of_twins_exactly_one_acts(world: World) -> None:
    together = threading.Barrier(8)

    def ask(_: int) -> tuple[int, Any]:
        caller = Caller(world.app.test_client(), world.alice.token)
        together.wait(10)
        response = caller("POST", "/v1/containers", WEB, headers=KEY)
        return response.status_code, response.json

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert {status for status, _ in answers} == {202}
    assert len({answer["id"] for _, answer in answers}) == 1
    assert count(world, Operation) == count(world, Container) == 1


def test_without_a_key_one_of_two_with_one_name_is_refused(world: World) -> None:
    together = threading.Barrier(6)

    def ask(_: int) -> int:
        caller = Caller(world.app.test_client(), world.alice.token)
        together.wait(10)
        return caller("POST", "/v1/containers", WEB).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, range(6))) == [202, 409, 409, 409, 409, 409]


def test_a_secret_is_not_kept_readable(world: World) -> None:
    made = world.alice.post("/v1/tokens", {"name": "robot"}, 201, headers=KEY)
    again = world.alice.post("/v1/tokens", {"name": "robot"}, 201, headers=KEY)
    assert again == made and made["secret"].startswith("hst_")
    with world.store.read() as session:
        kept = session.scalars(select(IdempotencyKey)).one()
        assert made["secret"] not in str(kept.body)
    robot = Caller(world.app.test_client(), made["secret"])
    assert robot.post("/v1/tokens", {"name": "robot"}, 409, headers=KEY)["code"] == "sealed", "another token cannot open it"


@pytest.mark.parametrize("key", ["", "with space", "x" * 201])
def test_a_key_must_be_usable(world: World, key: str) -> None:
    assert world.alice.post("/v1/containers", WEB, 422, headers={"Idempotency-Key": key})["code"] == "bad_idempotency_key"
