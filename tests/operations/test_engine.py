"""The engine's rules, on SQLite and PostgreSQL, with servers played by the test."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.limits import Limits, LimitsChange
from hostler.core.messages import Direction, Report, now
from hostler.core.specs import ExecSpec
from hostler.operations import engine as engine_module
from hostler.operations import requests
from hostler.store.models import Account, Address, Container, Event, Node, Operation
from tests.operations.world import World


def running(world: World, name: str = "web") -> None:
    """A container that runs."""
    world.create(name)
    world.answer_all()
    container = world.container(name)
    assert container is not None and container.state == "running"


def promised(world: World) -> list[tuple[float, int, int]]:
    """What each server has promised."""
    with world.store.read() as session:
        return [(node.cpus_promised, node.memory_promised, node.disk_promised) for node in session.scalars(select(Node).order_by(Node.name))]


def addresses_in_use(world: World) -> int:
    """How many addresses are given out."""
    with world.store.read() as session:
        return session.scalar(select(func.count()).select_from(Address).where(Address.container_id.is_not(None))) or 0


def test_servers_are_told_the_accounts_weight(world: World) -> None:
    with world.store.write() as session:
        session.execute(update(Account).values(cpu_weight=300))
    world.create("web")
    (batch,) = world.sent
    assert batch.spec is not None and batch.spec.account_weight == 300


def test_a_container_is_provisioned_in_one_batch(world: World) -> None:
    operation = world.create("web")
    (batch,) = world.sent
    assert [step.verb for step in batch.steps] == [
        "image.ensure",
        "volume.create",
        "limits.create",
        "sandbox.create",
        "network.attach",
        "sandbox.start",
    ]
    assert batch.spec is not None and batch.spec.name == "web" and batch.spec.links[0].addresses[0] == "198.18.1.1/15"
    assert batch.fence == 1
    world.answer_all()
    row = world.operation(operation)
    assert (row.state, row.progress, row.lease_until) == ("done", 1.0, None)
    assert world.container("web") is not None
    assert operation in world.changed


def test_a_failed_step_is_undone_backwards_and_nothing_is_left(world: World) -> None:
    operation = world.create("web")
    world.answer(world.sent.pop(), fail="network")
    (undo,) = world.sent
    assert undo.direction == Direction.UNDO and undo.fence == 2
    assert [step.verb for step in undo.steps] == ["network.detach", "sandbox.delete", "limits.remove", "volume.delete"]
    world.answer_all()
    row = world.operation(operation)
    assert row.state == "failed" and row.error is not None and row.error["message"] == "network broke"
    assert world.container("web") is None
    assert promised(world) == [(0, 0, 0), (0, 0, 0)]
    assert addresses_in_use(world) == 0


def test_an_undo_that_fails_needs_attention(world: World) -> None:
    operation = world.create("web")
    world.answer(world.sent.pop(), fail="start")
    world.answer(world.sent.pop(), fail="volume")
    assert world.operation(operation).state == "needs_attention"


def test_a_lost_message_is_sent_again_under_a_higher_fence(world: World) -> None:
    operation = world.create("web")
    lost = world.sent.pop()
    world.lapse(operation)
    (again,) = world.sent
    assert again.fence == lost.fence + 1 and again.steps == lost.steps
    world.answer(lost)  # the first copy's late word counts for nothing
    assert world.operation(operation).state == "running"
    world.answer_all()
    assert world.operation(operation).state == "done"


def test_a_lease_that_is_renewed_is_not_claimed_again(world: World) -> None:
    operation = world.create("web")
    batch = world.sent.pop()
    with world.store.write() as session:
        session.execute(update(Operation).values(lease_until=now() + timedelta(milliseconds=1)))
    world.engine.report(Report(operation=operation, node=batch.node, fence=batch.fence, direction=batch.direction, final=False))
    world.engine.tick()
    assert world.sent == []


def test_a_refused_batch_is_claimed_again(world: World) -> None:
    operation = world.create("web")
    batch = world.sent.pop()
    refused = ErrorReport(code="stale", message="older")
    world.engine.report(
        Report(operation=operation, node=batch.node, fence=batch.fence, direction=batch.direction, final=True, refused=refused)
    )
    world.engine.tick()
    assert [again.fence for again in world.sent] == [batch.fence + 1]


def test_a_restarted_worker_is_told_again_at_once(world: World) -> None:
    world.create("web")
    batch = world.sent.pop()
    world.engine.node_restarted(batch.node)
    assert [again.fence for again in world.sent] == [2]


def test_a_control_worker_that_starts_waits_a_moment_and_not_a_lease(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = world.create("web")
    batch = world.sent.pop()
    world.engine.control_restarted()
    world.engine.tick()
    assert world.sent == []
    monkeypatch.setattr(engine_module, "RENEWAL", timedelta(0))
    world.engine.control_restarted()
    world.engine.tick()
    assert [again.fence for again in world.sent] == [batch.fence + 1]
    world.engine.control_restarted()
    world.answer_all()
    assert world.operation(operation).lease_until is None


def test_one_operation_at_a_time_and_the_second_is_told_which_it_waits_for(world: World) -> None:
    running(world)
    stop = world.ask(requests.power, "web", "stop", {})
    start = world.ask(requests.power, "web", "start", {})
    assert world.operation(start).state == "queued" and world.operation(start).waits_for == stop
    assert len(world.sent) == 1
    world.answer(world.sent.pop())
    assert world.operation(stop).state == "done"
    world.answer_all()
    assert world.operation(start).state == "done"
    container = world.container("web")
    assert container is not None and container.state == "running"


def test_a_queued_operation_that_no_longer_makes_sense_is_refused_in_words(world: World) -> None:
    running(world)
    world.ask(requests.power, "web", "stop", {})
    second = world.ask(requests.power, "web", "stop", {})
    world.answer_all()
    error = world.operation(second).error
    assert error is not None and error["code"] == "wrong_state"
    container = world.container("web")
    assert container is not None and container.state == "stopped"


def test_cancel_is_seen_between_steps_and_undoes(world: World) -> None:
    running(world)
    operation = world.ask(requests.power, "web", "stop", {})
    queued = world.ask(requests.power, "web", "start", {})
    with world.store.write() as session:
        requests.cancel(session, session.get_one(Operation, queued))
    world.answer_all()
    assert (world.operation(operation).state, world.operation(queued).state) == ("done", "cancelled")
    with world.store.write() as session, pytest.raises(Conflict):
        requests.cancel(session, session.get_one(Operation, queued))


def test_delete_forgets_everything_and_twice_is_once(world: World) -> None:
    running(world)
    first = world.ask(requests.delete, "web")
    assert world.ask(requests.delete, "web") == first
    world.answer_all()
    assert world.container("web") is None and addresses_in_use(world) == 0
    assert promised(world) == [(0, 0, 0), (0, 0, 0)]
    with world.store.read() as session:
        kinds = session.scalars(select(Event.message).where(Event.kind == "operation_done").order_by(Event.id)).all()
    assert [message.split(" done")[0] for message in kinds] == ["provision web", "delete web"]


def test_a_failed_delete_can_be_asked_again(world: World) -> None:
    running(world)
    world.ask(requests.delete, "web")
    world.answer(world.sent.pop(), fail="volume")
    world.answer_all()
    container = world.container("web")
    assert container is not None and container.state == "error"
    world.ask(requests.delete, "web")
    world.answer_all()
    assert world.container("web") is None


def test_resize_keeps_the_servers_promise_right(world: World) -> None:
    running(world)
    world.ask(requests.resize, "web", LimitsChange.model_validate({"memory": "512M", "cpu": 1}))
    world.answer_all()
    container = world.container("web")
    assert container is not None and Limits.model_validate(container.limits).memory == 512 << 20
    assert sorted(promised(world))[-1][:2] == (1.0, 512 << 20)
    refused = world.ask(requests.resize, "web", LimitsChange.model_validate({"memory": "900G"}))
    error = world.operation(refused).error
    assert error is not None and error["code"] == "no_room"
    failed = world.ask(requests.resize, "web", LimitsChange.model_validate({"memory": "256M"}))
    world.answer(world.sent.pop(), fail="limits")
    world.answer_all()
    assert world.operation(failed).state == "failed"
    assert sorted(promised(world))[-1][:2] == (1.0, 512 << 20)


def test_a_server_that_stays_away_ends_the_operation(world: World) -> None:
    operation = world.create("web")
    node = world.sent.pop().node
    with world.store.write() as session:
        session.execute(update(Node).where(Node.name == node).values(state="offline", seen_at=now() - timedelta(minutes=5)))
    world.lapse(operation)
    row = world.operation(operation)
    assert row.state == "failed" and row.error is not None and row.error["code"] == "node_offline"
    container = world.container("web")
    assert container is not None and (container.state, container.wanted) == ("error", "absent")


def test_no_server_has_room(world: World) -> None:
    operation = world.create("huge", plan="large")
    refused = world.create("huge2", plan="large")
    third = world.create("huge3", plan="large")
    assert world.operation(operation).state == "running" and world.operation(refused).state == "running"
    error = world.operation(third).error
    assert error is not None and error["code"] == "no_server" and "alpha has" in error["message"]
    assert world.container("huge3") is None


def test_many_creates_at_once_share_no_address_and_no_id_range(world: World) -> None:
    def create(number: int) -> None:
        world.create(f"c{number}", plan="nano")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.sent) == 16
    specs = [batch.spec for batch in world.sent if batch.spec is not None]
    assert len({spec.links[0].addresses for spec in specs}) == 16
    assert len({(batch.node, batch.spec.ids.base) for batch in world.sent if batch.spec}) == 16
    with world.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Container)) == 16


def test_exec_runs_beside_an_operation(world: World) -> None:
    running(world)
    world.ask(requests.resize, "web", LimitsChange.model_validate({"memory": "300M"}))
    world.ask(requests.execute, "web", ExecSpec(args=("true",)))
    assert [batch.exclusive for batch in world.sent] == [True, False]


def test_a_creation_that_is_cancelled_before_its_turn_leaves_no_row(world: World) -> None:
    with world.store.write() as session:
        asked = requests.create(session, requests.Asker(world.account(), "test"), "web", "busybox", "small", {})
        requests.cancel(session, asked)
        operation = asked.id
    world.engine.advance(operation)
    assert world.operation(operation).state == "cancelled" and world.container("web") is None
