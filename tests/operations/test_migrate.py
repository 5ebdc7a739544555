"""Moves between servers: whose the container is at every moment, and what both servers promise."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from hostler.core.messages import Direction, Hello, WireFact, now
from hostler.operations import mobility_requests, requests
from hostler.store import nodes
from hostler.store.engine import Store
from hostler.store.models import Checkpoint, Container, Node, Operation
from tests.operations.test_engine import addresses_in_use, promised, running
from tests.operations.test_mobility import RESULTS, checkpointed, fill, kept, suspended, verbs, web
from tests.operations.world import FACTS, World, make_world

FULL = (0.5, 256 << 20, 2 << 30)
DISK = (0, 0, 2 << 30)
NONE = (0, 0, 0)
AWAY = {"state": "offline"}


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """Two servers that can reach each other; a container runs on alpha."""
    made = make_world(store, tmp_path)
    greet(made)
    return made


def greet(world: World, *, alpha: list[str] | None = None, beta: list[str] | None = None) -> None:
    """Both servers say where they can be reached, and what they have."""
    for name, containers in (("alpha", alpha), ("beta", beta)):
        wire = WireFact(address=f"{name}:8470", fingerprint=("a" if name == "alpha" else "b") * 64)
        facts = FACTS.model_copy(update={"wire": wire, "containers": containers or []})
        with world.store.write() as session:
            nodes.greet(session, Hello(node=name, instance=f"i{name}", facts=facts))


def place(world: World, name: str = "web") -> str:
    """The server that a container is on."""
    with world.store.read() as session:
        return session.scalars(select(Node.name).join(Container, Container.node_id == Node.id).where(Container.name == name)).one()


def goes_away(world: World, name: str) -> None:
    """A server is not heard of for long."""
    with world.store.write() as session:
        session.execute(update(Node).where(Node.name == name).values(state="offline", seen_at=now() - timedelta(minutes=5)))


def comes_back(world: World, name: str) -> None:
    """It is heard of again."""
    with world.store.write() as session:
        session.execute(update(Node).where(Node.name == name).values(state="online", seen_at=now()))


def code(world: World, operation: str) -> str:
    """What it failed with."""
    error = world.operation(operation).error
    assert error is not None
    return str(error["code"])


def test_the_four_parts_run_in_turn_and_the_report_is_kept(world: World) -> None:
    running(world)
    assert place(world) == "alpha"
    address = addresses_in_use(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    assert web(world).state == "migrating" and promised(world) == [FULL, FULL], "room is held on both"
    seen = []
    while world.sent:
        batch = world.sent.pop(0)
        seen.append((batch.node, verbs(batch)))
        assert place(world) == "alpha", "it is the source's until the end is written down"
        payloads = {order.verb: order.payload for order in batch.steps}
        world.answer(batch, results=RESULTS)
        if "move.prepare" in payloads:
            ticket = payloads["move.prepare"]["ticket"]
            assert len(bytes.fromhex(ticket)) == 32 and payloads["move.prepare"]["peer"] == "a" * 64 and payloads["move.prepare"]["suspended"] is None
        if "move.out" in payloads:
            assert payloads["move.out"] == {
                "operation": operation, "address": "beta:8470", "peer": "b" * 64, "ticket": ticket,
                "methods": ["pre_copy", "post_copy", "stop_copy"], "suspended": None,
            }  # fmt: skip
    assert seen == [
        ("beta", ["image.ensure", "move.prepare"]),
        ("alpha", ["move.out"]),
        ("beta", ["move.in"]),
        ("alpha", ["move.clean"]),
    ]
    row = world.operation(operation)
    assert row.state == "done" and place(world) == "beta" and web(world).state == "running"
    assert row.result["method"] == "stop_copy" and row.result["frozen_ms"] == 80.0 and (row.result["from"], row.result["to"]) == ("alpha", "beta")
    assert promised(world) == [NONE, FULL] and addresses_in_use(world) == address


def test_a_failure_before_the_hand_over_leaves_it_where_it_was(world: World) -> None:
    for failing, undos in (("prepare", [("beta", ["move.discard"])]), ("move", [("alpha", ["move.back"]), ("beta", ["move.discard"])])):
        name = f"web-{failing}"
        running(world, name)
        home, before = place(world, name), promised(world)
        operation = world.ask(mobility_requests.migrate, name, "alpha" if home == "beta" else "beta")
        seen = []
        while world.sent:
            batch = world.sent.pop(0)
            if batch.direction == Direction.UNDO:
                seen.append((batch.node, verbs(batch)))
            world.answer(batch, fail=failing if batch.direction == Direction.FORWARD else None, results=RESULTS)
        assert world.operation(operation).state == "failed" and place(world, name) == home and promised(world) == before
        assert web(world, name).state == "running"
        if home == "alpha":
            assert seen == undos


def test_after_the_hand_over_nothing_is_taken_back(world: World) -> None:
    """Neither by a failure on the target, nor by a cancel."""
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    world.answer(world.sent.pop())
    world.answer(world.sent.pop(), results=RESULTS)
    with world.store.write() as session:
        requests.cancel(session, session.get_one(Operation, operation))
    arrive = world.sent.pop()
    assert verbs(arrive) == ["move.in"], "a cancel comes too late"
    world.answer(arrive, fail="arrive")
    (reap,) = world.sent
    assert (reap.node, verbs(reap), reap.operation != operation) == ("alpha", ["move.clean"], True)
    assert reap.steps[0].payload == {"operation": operation}, "the source's journal knows it under that"
    world.answer_all()
    container = web(world)
    assert (world.operation(operation).state, place(world), container.state) == ("failed", "beta", "error")
    assert container.error is not None and "beta" in container.error["hint"]
    assert promised(world) == [NONE, FULL]


def test_a_cancel_before_the_hand_over_is_in_time(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    with world.store.write() as session:
        requests.cancel(session, session.get_one(Operation, operation))
    world.answer_all(results=RESULTS)
    assert world.operation(operation).state == "cancelled" and place(world) == "alpha" and web(world).state == "running"


def test_a_source_that_dies_in_the_middle_is_waited_for_as_only_it_knows(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    world.answer(world.sent.pop())
    lost = world.sent.pop()
    assert verbs(lost) == ["move.out"]
    goes_away(world, "alpha")
    world.lapse(operation)
    assert world.operation(operation).state == "running" and world.sent == []
    comes_back(world, "alpha")
    world.lapse(operation)
    (again,) = world.sent
    assert verbs(again) == ["move.out"] and again.fence > lost.fence
    world.answer_all(results=RESULTS)
    assert world.operation(operation).state == "done" and place(world) == "beta"


def test_a_target_that_dies_before_it_is_asked_costs_nothing(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    world.sent.pop()
    goes_away(world, "beta")
    world.lapse(operation)
    assert code(world, operation) == "node_offline" and place(world) == "alpha" and web(world).state == "running"
    assert promised(world) == [FULL, NONE]


def test_a_target_that_dies_when_the_move_is_undone_costs_nothing(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    world.answer(world.sent.pop())
    world.answer(world.sent.pop(), fail="move", code="wire_cut")
    assert verbs(world.sent[0]) == ["move.back"]
    world.answer(world.sent.pop())
    world.sent.pop()
    goes_away(world, "beta")
    world.lapse(operation)
    assert code(world, operation) == "wire_cut" and place(world) == "alpha" and web(world).state == "running"


def test_a_source_that_dies_before_it_cleaned_up_does_not_fail_the_move(world: World) -> None:
    for fails in (True, False):
        name = f"web-{fails}".lower()
        running(world, name)
        home = place(world, name)
        other = "beta" if home == "alpha" else "alpha"
        operation = world.ask(mobility_requests.migrate, name, other)
        for _ in range(3):
            world.answer(world.sent.pop(), results=RESULTS)
        last = world.sent.pop()
        assert verbs(last) == ["move.clean"]
        if fails:
            world.answer(last, fail="clean up")
        else:
            goes_away(world, home)
            world.lapse(operation)
            comes_back(world, home)
        assert world.operation(operation).state == "done" and place(world, name) == other and web(world, name).state == "running"


def test_a_target_that_is_away_when_it_is_to_let_run_is_waited_for(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    world.answer(world.sent.pop())
    world.answer(world.sent.pop(), results=RESULTS)
    world.sent.pop()
    goes_away(world, "beta")
    world.lapse(operation)
    assert world.operation(operation).state == "running"
    comes_back(world, "beta")
    world.lapse(operation)
    world.answer_all(results=RESULTS)
    assert world.operation(operation).state == "done" and place(world) == "beta"


def test_what_cannot_move_live_is_restarted_if_that_is_allowed_and_only_then(world: World) -> None:
    running(world)
    refused = world.ask(mobility_requests.migrate, "web", "beta")
    world.answer(world.sent.pop())
    world.answer(world.sent.pop(), fail="move", code="cannot_checkpoint")
    world.answer_all()
    assert code(world, refused) == "cannot_checkpoint" and place(world) == "alpha"

    operation = world.ask(mobility_requests.migrate, "web", "beta", allow_restart=True)
    world.answer(world.sent.pop())
    world.answer(world.sent.pop(), fail="move", code="cannot_checkpoint")
    seen, indices = [], []
    while world.sent:
        batch = world.sent.pop(0)
        if batch.direction == Direction.FORWARD:
            seen.append((batch.node, verbs(batch)))
            indices += [order.index for order in batch.steps]
        if "move.out" in verbs(batch):
            assert batch.steps[-1].payload["methods"] == ["restart"]
        world.answer(batch, results=RESULTS)
    assert seen == [
        ("alpha", ["sandbox.stop", "network.detach", "sandbox.delete", "limits.remove"]),
        ("beta", ["image.ensure", "move.prepare"]),
        ("alpha", ["move.out"]),
        ("beta", ["move.in", "limits.create", "sandbox.create", "network.attach", "sandbox.start"]),
        ("alpha", ["move.clean"]),
    ]
    assert min(indices) > 4, "a server's journal answers from what it wrote down of a step's number"
    row = world.operation(operation)
    assert row.state == "done" and place(world) == "beta" and web(world).state == "running" and promised(world) == [NONE, FULL]
    assert row.result["method"] == "restart" and row.result["why"] == "move broke"


def test_a_restart_that_fails_before_the_hand_over_is_brought_up_where_it_was(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta", allow_restart=True)
    world.answer(world.sent.pop())
    world.answer(world.sent.pop(), fail="move", code="cannot_checkpoint")
    back: list[str] = []
    while world.sent:
        batch = world.sent.pop(0)
        if batch.direction == Direction.UNDO and batch.node == "alpha":
            back += verbs(batch)
        fails = "move" if batch.direction == Direction.FORWARD else None
        world.answer(batch, fail=fails, code="cannot_checkpoint")
    assert back == ["move.back", "move.back", "limits.create", "sandbox.create", "network.attach", "sandbox.start"]
    assert world.operation(operation).state == "failed" and place(world) == "alpha" and web(world).state == "running"
    assert promised(world) == [FULL, NONE]


def test_a_stopped_container_moves_its_files(world: World) -> None:
    running(world)
    world.ask(requests.power, "web", "stop", {})
    world.answer_all()
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    seen = []
    while world.sent:
        batch = world.sent.pop(0)
        seen += verbs(batch)
        world.answer(batch, results=RESULTS)
    assert seen == ["image.ensure", "move.prepare", "move.out", "move.in", "move.clean"]
    assert world.operation(operation).state == "done" and place(world) == "beta" and web(world).state == "stopped"


def test_a_suspended_container_moves_with_its_memory_and_may_come_back_there(world: World) -> None:
    suspended(world)
    assert promised(world) == [DISK, NONE]
    world.ask(mobility_requests.migrate, "web", "beta")
    assert promised(world) == [DISK, DISK]
    while world.sent:
        batch = world.sent.pop(0)
        for order in batch.steps:
            assert order.payload.get("suspended", web(world).checkpoint_id) == web(world).checkpoint_id
        world.answer(batch, results=RESULTS)
    assert place(world) == "beta" and web(world).state == "suspended" and promised(world) == [NONE, DISK]
    with world.store.read() as session:
        assert session.scalars(select(Checkpoint)).one().node.name == "beta"

    operation = world.ask(mobility_requests.resume, "web", "alpha")
    assert promised(world) == [FULL, DISK]
    seen = []
    while world.sent:
        batch = world.sent.pop(0)
        seen.append((batch.node, verbs(batch)))
        world.answer(batch, results=RESULTS)
    assert seen == [
        ("alpha", ["image.ensure", "checkpoint.remove", "move.prepare"]),
        ("beta", ["move.out"]),
        ("alpha", ["move.in", "limits.create", "checkpoint.restore", "checkpoint.release", "checkpoint.remove"]),
        ("beta", ["checkpoint.remove", "move.clean"]),
    ]
    assert world.operation(operation).state == "done" and place(world) == "alpha" and web(world).state == "running"
    assert promised(world) == [FULL, NONE] and kept(world) == []


def test_a_resume_elsewhere_that_fails_is_suspended_there_or_here(world: World) -> None:
    for failing, where in (("move", 0), ("restore", 1)):
        name = f"web-{failing}"
        running(world, name)
        world.ask(mobility_requests.suspend, name)
        world.answer_all(results=RESULTS)
        home = place(world, name)
        other = "beta" if home == "alpha" else "alpha"
        world.ask(mobility_requests.resume, name, other)
        removed: set[tuple[str, str]] = set()
        while world.sent:
            batch = world.sent.pop(0)
            late = batch.direction == Direction.UNDO or "move.clean" in verbs(batch)
            removed |= {(batch.node, order.payload["checkpoint"]) for order in batch.steps if late and order.verb == "checkpoint.remove"}
            world.answer(batch, fail=failing if batch.direction == Direction.FORWARD else None, results=RESULTS)
        assert web(world, name).state == "suspended" and place(world, name) == (home, other)[where]
        with world.store.read() as session:
            row = session.get_one(Checkpoint, web(world, name).checkpoint_id)
            assert (row.state, row.node.name) == ("ready", (home, other)[where])
        assert removed == {(home if where else other, row.id)}, "its file is where it is, and nowhere else"


def test_refusals_are_in_words_and_change_nothing(world: World) -> None:
    running(world)
    fill(world, "beta")
    assert code(world, world.ask(mobility_requests.migrate, "web", "beta")) == "no_room"
    assert code(world, world.ask(mobility_requests.migrate, "web")) == "no_server"
    assert code(world, world.ask(mobility_requests.migrate, "web", "alpha")) == "same_node"
    with world.store.write() as session:
        session.execute(update(Node).values(memory_promised=0))
        beta = session.scalars(select(Node).where(Node.name == "beta")).one()
        beta.facts = beta.facts | {"wire": None}
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    error = world.operation(operation).error
    assert error is not None and error["code"] == "no_wire" and "beta" in error["message"]
    greet(world)
    with world.store.write() as session:
        beta = session.scalars(select(Node).where(Node.name == "beta")).one()
        beta.facts = beta.facts | {"drivers": [fact | {"capabilities": []} for fact in beta.facts["drivers"]]}
    assert code(world, world.ask(mobility_requests.migrate, "web", "beta", allow_restart=True)) == "cannot_send", "a restart needs that too"
    assert web(world).state == "running" and place(world) == "alpha" and world.sent == []


def test_checkpoints_that_cannot_follow_are_not_lost_silently(world: World) -> None:
    running(world)
    checkpointed(world)
    operation = world.ask(mobility_requests.migrate, "web", "beta")
    error = world.operation(operation).error
    assert error is not None and error["code"] == "has_checkpoints" and "--drop-checkpoints" in error["hint"]
    world.ask(mobility_requests.migrate, "web", "beta", drop_checkpoints=True)
    removed = []
    while world.sent:
        batch = world.sent.pop(0)
        removed += [order.payload for order in batch.steps if order.verb == "checkpoint.remove"]
        world.answer(batch, results=RESULTS)
    assert len(removed) == 1 and removed[0]["snapshot"] == "s1" and kept(world) == [] and place(world) == "beta"


def test_the_best_other_server_is_chosen_and_said_why(world: World) -> None:
    running(world)
    operation = world.ask(mobility_requests.migrate, "web")
    world.answer_all(results=RESULTS)
    row = world.operation(operation)
    assert place(world) == "beta" and "beta: can take it" in row.steps[0]["note"]


def test_host_ids_are_no_other_containers_on_any_server(world: World) -> None:
    for number in range(4):
        running(world, f"c{number}")
    with world.store.read() as session:
        slots = session.scalars(select(Container.id_slot)).all()
    assert sorted(slot for slot in slots if slot is not None) == [0, 1, 2, 3]
