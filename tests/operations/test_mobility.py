"""Suspend, resume, checkpoints, restore, clone: what is asked of servers, and what rows and promises say afterwards."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from hostler.core.errors import Conflict, NoRoom, NotFound
from hostler.core.messages import Batch, Direction, now
from hostler.operations import mobility_requests, requests
from hostler.store import checkpoints
from hostler.store.models import Checkpoint, Container, Node
from tests.operations.test_engine import promised, running
from tests.operations.world import World

TAKEN = {"bytes": 5000, "stored": 1200, "pages": 3, "snapshot": "s1", "frozen_ms": 12.5, "ms": 40.0, "writer": "criu 4.2", "memory": 4096}
RESULTS: dict[str, dict[str, Any]] = {
    "checkpoint": TAKEN,
    "restore": {"pid": 77, "started_at": 700, "ms": 21.0},
    "move": {"method": "stop_copy", "why": "the kernel does not track changes", "frozen_ms": 80.0, "bytes": 9000, "phases": {"dump": 30.0}, "rounds": []},
    "arrive": {"pid": 78, "started_at": 780},
}


def verbs(batch: Batch) -> list[str]:
    """What a batch asks for."""
    return [order.verb for order in batch.steps]


def web(world: World, name: str = "web") -> Container:
    """Its row."""
    container = world.container(name)
    assert container is not None
    return container


def kept(world: World) -> list[Checkpoint]:
    """All checkpoints."""
    with world.store.read() as session:
        return list(session.scalars(select(Checkpoint).order_by(Checkpoint.created_at)))


def suspended(world: World) -> None:
    """A container that is suspended."""
    running(world)
    world.ask(mobility_requests.suspend, "web")
    world.answer_all(results=RESULTS)
    assert web(world).state == "suspended"


def checkpointed(world: World, label: str = "") -> str:
    """A checkpoint of the container that runs."""
    operation = world.ask(mobility_requests.checkpoint, "web", label)
    world.answer_all(results=RESULTS)
    row = world.operation(operation)
    assert row.state == "done", row.error
    return str(row.args["checkpoint"])


def fill(world: World, name: str) -> None:
    """A server has nothing left to promise."""
    with world.store.write() as session:
        session.execute(update(Node).where(Node.name == name).values(memory_promised=Node.memory))


def test_suspend_gives_back_processors_and_memory_and_keeps_the_disk_and_address(world: World) -> None:
    running(world)
    before = sorted(promised(world))[-1]
    operation = world.ask(mobility_requests.suspend, "web")
    (batch,) = world.sent
    assert verbs(batch) == ["checkpoint.create", "network.detach", "sandbox.delete", "limits.remove"]
    assert batch.steps[0].payload["keep"] is False
    assert web(world).state == "suspending"
    world.answer_all(results=RESULTS)
    container = web(world)
    assert (container.state, container.wanted) == ("suspended", "suspended")
    assert sorted(promised(world))[-1] == (0, 0, before[2])
    (row,) = kept(world)
    assert (row.id, row.kind, row.state, row.snapshot, row.writer) == (container.checkpoint_id, "suspend", "ready", "s1", "criu 4.2")
    assert world.operation(operation).result["memory"] == 4096


def test_a_suspend_that_fails_leaves_the_container_running(world: World) -> None:
    running(world)
    before = promised(world)
    operation = world.ask(mobility_requests.suspend, "web")
    world.answer(world.sent.pop(), fail="checkpoint", code="cannot_checkpoint")
    (undo,) = world.sent
    assert undo.direction == Direction.UNDO and verbs(undo) == ["checkpoint.cancel"]
    world.answer_all()
    assert world.operation(operation).state == "failed"
    container = web(world)
    assert (container.state, container.wanted, container.checkpoint_id) == ("running", "running", None)
    assert kept(world) == [] and promised(world) == before


def test_memory_on_disk_is_never_thrown_away_because_the_rest_failed(world: World) -> None:
    """The checkpoint is all there is of it once the processes may be gone."""
    running(world)
    operation = world.ask(mobility_requests.suspend, "web")
    world.answer(world.sent.pop(), fail="sandbox", results=RESULTS)
    assert world.sent == [], "nothing is undone"
    assert world.operation(operation).state == "failed"
    container = web(world)
    assert container.state == "error" and container.checkpoint_id is not None
    with pytest.raises(Conflict), world.store.write() as session:
        requests.find_container(session, world.account(), "web")
        mobility_requests.suspend(session, requests.Asker(world.account(), "t"), "web")
    start = world.ask(requests.power, "web", "start", {})
    error = world.operation(start).error
    assert error is not None and "on disk" in error["message"]
    world.ask(mobility_requests.resume, "web")
    assert verbs(world.sent[0])[:4] == ["network.detach", "sandbox.delete", "limits.remove", "limits.create"]
    world.answer_all(results=RESULTS)
    assert web(world).state == "running"


def test_resume_brings_it_back_and_the_checkpoint_goes(world: World) -> None:
    suspended(world)
    before = sorted(promised(world))[-1]
    operation = world.ask(mobility_requests.resume, "web")
    (batch,) = world.sent
    assert verbs(batch) == ["limits.create", "checkpoint.restore", "checkpoint.release", "checkpoint.remove"]
    assert batch.steps[1].payload == {"checkpoint": web(world).checkpoint_id, "close_connections": False, "rollback": False, "source": None}
    assert batch.steps[3].payload["snapshot"] == "s1"
    world.answer_all(results=RESULTS)
    container = web(world)
    assert (container.state, container.wanted, container.checkpoint_id) == ("running", "running", None)
    assert kept(world) == []
    assert sorted(promised(world))[-1] > before
    assert world.operation(operation).result == {"memory": 4096, "ms": 21.0}


def test_a_resume_without_room_is_refused_in_words(world: World) -> None:
    suspended(world)
    with world.store.read() as session:
        node = web(world).node_id
        name = session.get_one(Node, node).name
    fill(world, name)
    operation = world.ask(mobility_requests.resume, "web")
    error = world.operation(operation).error
    assert error is not None and error["code"] == "no_room" and name in error["message"] and "--on" in error["hint"]
    assert web(world).state == "suspended"


def test_a_resume_that_fails_is_suspended_as_before(world: World) -> None:
    suspended(world)
    before = promised(world)
    world.ask(mobility_requests.resume, "web")
    world.answer(world.sent.pop(), fail="restore")
    assert verbs(world.sent[0]) == ["checkpoint.abandon", "limits.remove"]
    world.answer_all()
    assert web(world).state == "suspended" and len(kept(world)) == 1 and promised(world) == before


def test_a_file_that_cannot_be_removed_does_not_fail_the_resume(world: World) -> None:
    suspended(world)
    operation = world.ask(mobility_requests.resume, "web")
    world.answer(world.sent.pop(), fail="remove checkpoint", results=RESULTS)
    assert world.operation(operation).state == "done" and web(world).state == "running"
    (row,) = kept(world)
    assert (row.state, row.kind) == ("broken", "manual")
    world.ask(mobility_requests.delete_checkpoint, row.id)
    world.answer_all()
    assert kept(world) == []


def test_a_server_that_goes_away_in_the_middle_of_a_restore_is_waited_for(world: World) -> None:
    """Only it knows whether the container runs: to bring it back a second time over files that went on would ruin them."""
    suspended(world)
    operation = world.ask(mobility_requests.resume, "web")
    node = world.sent.pop().node
    with world.store.write() as session:
        session.execute(update(Node).where(Node.name == node).values(state="offline", seen_at=now() - timedelta(minutes=5)))
    world.lapse(operation)
    assert world.operation(operation).state == "running" and world.sent == []
    with world.store.write() as session:
        session.execute(update(Node).values(state="online"))
    world.lapse(operation)
    world.answer_all(results=RESULTS)
    assert world.operation(operation).state == "done" and web(world).state == "running"


def test_a_suspended_container_is_not_stopped_but_may_lose_its_memory(world: World) -> None:
    suspended(world)
    with world.store.write() as session, pytest.raises(Conflict) as refused:
        requests.power(session, requests.Asker(world.account(), "t"), "web", "stop", {})
    assert "--discard-memory" in refused.value.hint
    before = sorted(promised(world))[-1]
    world.ask(mobility_requests.discard, "web")
    assert "checkpoint.remove" in verbs(world.sent[0])
    world.answer_all()
    assert web(world).state == "stopped" and kept(world) == [] and sorted(promised(world))[-1] > before
    world.ask(requests.power, "web", "start", {})
    world.answer_all()
    assert web(world).state == "running"


def test_delete_takes_the_checkpoints_along(world: World) -> None:
    running(world)
    checkpointed(world)
    world.ask(mobility_requests.suspend, "web")
    world.answer_all(results=RESULTS)
    world.ask(requests.delete, "web")
    (batch,) = world.sent
    assert verbs(batch).count("checkpoint.remove") == 2 and verbs(batch)[-2:] == ["volume.delete", "sandbox.forget"]
    world.answer_all()
    assert world.container("web") is None and kept(world) == []
    assert promised(world) == [(0, 0, 0), (0, 0, 0)]


def test_a_checkpoint_leaves_the_container_running(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world, "before-upgrade")
    (row,) = kept(world)
    assert (row.id, row.name, row.kind, row.state, row.stored, row.frozen_ms) == (checkpoint, "before-upgrade", "manual", "ready", 1200, 12.5)
    assert web(world).state == "running"
    world.ask(mobility_requests.checkpoint, "web")
    world.answer(world.sent.pop(), fail="checkpoint")
    world.answer_all()
    assert [row.id for row in kept(world)] == [checkpoint] and web(world).state == "running"


def test_there_is_an_end_to_checkpoints(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    running(world)
    checkpointed(world)
    monkeypatch.setattr(checkpoints, "LIMIT", 1)
    with world.store.write() as session, pytest.raises(NoRoom, match="may have 1"):
        mobility_requests.checkpoint(session, requests.Asker(world.account(), "t"), "web")


def test_restore_kills_what_runs_and_brings_back_what_was(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    operation = world.ask(mobility_requests.restore, "web", checkpoint)
    (batch,) = world.sent
    assert verbs(batch) == [
        "sandbox.stop", "network.detach", "sandbox.delete", "limits.remove", "limits.create", "checkpoint.restore", "checkpoint.release",
    ]  # fmt: skip
    assert batch.steps[0].payload == {"grace": 0}
    assert batch.steps[5].payload == {"checkpoint": checkpoint, "close_connections": True, "rollback": True, "source": None}
    world.answer_all(results=RESULTS)
    assert world.operation(operation).state == "done" and web(world).state == "running" and len(kept(world)) == 1


def test_a_restore_that_fails_is_stopped_and_says_whose_files_it_has(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    before = promised(world)
    operation = world.ask(mobility_requests.restore, "web", checkpoint)
    world.answer(world.sent.pop(), fail="restore")
    world.answer_all()
    row = world.operation(operation)
    assert row.error is not None and checkpoint in row.error["hint"]
    assert web(world).state == "stopped" and promised(world) == before


def test_restoring_a_suspended_container_keeps_what_it_was_suspended_to(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    before = promised(world)
    world.ask(mobility_requests.suspend, "web")
    world.answer_all(results=RESULTS)
    world.ask(mobility_requests.restore, "web", checkpoint)
    world.answer_all(results=RESULTS)
    assert web(world).state == "running" and web(world).checkpoint_id is None and promised(world) == before
    assert [row.kind for row in kept(world)] == ["manual", "manual"]


def test_a_checkpoint_without_files_is_not_restored_nor_cloned(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    with world.store.write() as session:
        session.execute(update(Checkpoint).values(snapshot=None))
    for operation in (world.ask(mobility_requests.restore, "web", checkpoint), world.ask(mobility_requests.clone, "web", checkpoint, "web2")):
        error = world.operation(operation).error
        assert error is not None and error["code"] == "no_snapshot"
    assert web(world).state == "running" and world.container("web2") is None


def test_a_clone_is_a_container_of_its_own(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    source = web(world)
    operation = world.ask(mobility_requests.clone, "web", checkpoint, "web2")
    (batch,) = world.sent
    assert verbs(batch) == ["volume.clone", "limits.create", "checkpoint.restore", "checkpoint.release"]
    assert batch.steps[0].payload == {"source": source.id, "snapshot": "s1"}
    assert batch.steps[2].payload == {"checkpoint": checkpoint, "close_connections": True, "rollback": False, "source": source.id}
    assert batch.spec is not None and batch.spec.name == "web2" and batch.spec.id != source.id
    world.answer_all(results=RESULTS)
    made = web(world, "web2")
    assert world.operation(operation).state == "done" and made.state == "running"
    assert (made.node_id, made.limits, made.image_id) == (source.node_id, source.limits, source.image_id) and made.id_slot != source.id_slot


def test_a_clone_that_fails_leaves_nothing(world: World) -> None:
    running(world)
    checkpoint, before = checkpointed(world), promised(world)
    world.ask(mobility_requests.clone, "web", checkpoint, "web2")
    world.answer(world.sent.pop(), fail="restore")
    assert verbs(world.sent[0]) == ["checkpoint.abandon", "limits.remove", "volume.delete"]
    world.answer_all()
    assert world.container("web2") is None and promised(world) == before


def test_what_is_not_ones_own_does_not_exist(world: World) -> None:
    running(world)
    checkpoint = checkpointed(world)
    running(world, "other")
    with world.store.write() as session, pytest.raises(NotFound):
        mobility_requests.restore(session, requests.Asker(world.account(), "t"), "other", checkpoint)
    with world.store.write() as session, pytest.raises(Conflict):
        mobility_requests.clone(session, requests.Asker(world.account(), "t"), "web", checkpoint, "other")
    suspended_id = None
    world.ask(mobility_requests.suspend, "web")
    world.answer_all(results=RESULTS)
    suspended_id = web(world).checkpoint_id
    assert suspended_id is not None
    refused = world.operation(world.ask(mobility_requests.delete_checkpoint, suspended_id)).error
    assert refused is not None and refused["code"] == "in_use"
