"""Exports and imports: what is asked of servers, and what rows and promises say afterwards."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest
from sqlalchemy import update

from hostler.core.errors import Denied
from hostler.core.messages import now
from hostler.core.specs import Process
from hostler.mobility.reading import read_manifest
from hostler.operations import mobility_requests, transfer_requests
from hostler.operations.container_spec import process_of
from hostler.operations.requests import Asker
from hostler.operations.transfer import wanted_process
from hostler.operations.transfer_requests import Upload, Wish
from hostler.store.models import Account, Image, Node
from tests.operations.test_engine import promised, running
from tests.operations.test_mobility import RESULTS, checkpointed, verbs, web
from tests.operations.world import World
from tests.web.test_transfers import checkpoint_file

PROCESS = Process(args=("sh",), env=("A=1",))
TOLD = RESULTS | {"import": {"pid": 5, "started_at": 50, "ms": 9.0, "process": PROCESS.model_dump(mode="json")}}


def upload() -> Upload:
    """A file of a container of this world's image."""
    content = checkpoint_file(image="aa")
    return Upload(read_manifest(io.BytesIO(content)), "sha256:" + "0" * 64, len(content))


def test_an_export_waits_in_line_and_others_wait_for_it(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    export = world.ask(transfer_requests.export, checkpoint)
    (batch,) = world.sent
    assert verbs(batch) == ["checkpoint.export"] and batch.steps[0].payload["limit"] > 0
    removal = world.ask(mobility_requests.delete_checkpoint, checkpoint)
    assert world.operation(removal).waits_for == export, "what is being sent is not taken away"
    world.answer_all(results={"export": {"digest": "sha256:" + "0" * 64, "size": 9, "encrypted": True}})
    assert world.operation(export).result["size"] == 9 and world.operation(removal).state == "done"


def test_an_import_takes_what_a_container_takes_and_gives_it_back(world: World) -> None:
    before = promised(world)
    operation = world.ask(transfer_requests.bring_in, Wish(on="beta"), upload())
    (batch,) = world.sent
    assert batch.node == "beta" and verbs(batch) == ["checkpoint.import", "checkpoint.release"] and promised(world) != before
    world.answer(world.sent.pop(), fail="import", code="does_not_fit")
    assert verbs(world.sent[0]) == ["checkpoint.discard"]
    world.answer_all()
    assert world.operation(operation).state == "failed" and world.container("web") is None and promised(world) == before
    world.ask(transfer_requests.bring_in, Wish(), upload())
    world.answer_all(results=TOLD)
    made = web(world)
    assert (made.state, made.wanted, made.process["env"]) == ("running", "running", ["A=1"])


def test_a_server_that_goes_away_meanwhile_is_waited_for(world: World) -> None:
    """Only it knows whether the container runs."""
    operation = world.ask(transfer_requests.bring_in, Wish(on="beta"), upload())
    world.sent.clear()
    with world.store.write() as session:
        session.execute(update(Node).where(Node.name == "beta").values(state="offline", seen_at=now() - timedelta(minutes=5)))
    world.lapse(operation)
    assert world.operation(operation).state == "running" and world.sent == []
    with world.store.write() as session:
        session.execute(update(Node).values(state="online"))
    world.lapse(operation)
    world.answer_all(results=TOLD)
    assert world.operation(operation).state == "done" and web(world).state == "running"


def test_a_tenant_does_not_import(world: World) -> None:
    tenant = Account(name="tenant", provider=False)
    with world.store.read() as session, pytest.raises(Denied) as refused:
        transfer_requests.bring_in(session, Asker(tenant, "t"), Wish(), upload())
    assert "root's rights" in refused.value.hint


@pytest.mark.parametrize("config", [{}, {"entrypoint": ["run"], "cmd": ["it"], "env": ["B=2"], "user": "www", "workdir": "/srv"}])
def test_what_is_asked_for_again_is_what_it_was(config: dict[str, object]) -> None:
    image = Image(name="i", config=config)
    for wanted in ({}, {"args": ["other"], "env": ["A=1"], "cwd": "/tmp", "user": "7"}):
        was = process_of(image, wanted)
        assert process_of(image, wanted_process(image, was)) == was
