"""What the control side makes of news from servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from hostler.core.limits import LimitsChange
from hostler.core.messages import ContainerEvent, Heartbeat, Hello, WireFact, now
from hostler.operations import mobility_requests, requests
from hostler.settings import ControlSettings
from hostler.store.engine import Store
from hostler.store.models import Container, Event, Node, Operation
from hostler.workers.control_side import ControlSide
from tests.operations.world import FACTS, World, make_world


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """Servers that are online, and one container that runs."""
    made = make_world(store, tmp_path)
    made.create("web")
    made.answer_all()
    return made


@pytest.fixture
def side(world: World, store_url: str, redis_socket: Path, tmp_path: Path) -> Iterator[ControlSide]:
    """A control side on the world's store; what it sends is the world's to answer."""
    settings = ControlSettings(store_url=store_url, redis_socket=redis_socket, home=tmp_path, secret_file=tmp_path / "secret")
    made = ControlSide(settings)
    made.engine = world.engine
    yield made
    made.close()


def exited(world: World, **details: object) -> ContainerEvent:
    """News that the container's init ended."""
    container = world.container("web")
    assert container is not None
    return ContainerEvent(node="alpha", container=container.id, kind="exited", message="it ended with status 3", details=details)


def events(world: World, kind: str) -> list[str]:
    """Messages of one kind."""
    with world.store.read() as session:
        return list(session.scalars(select(Event.message).where(Event.kind == kind)))


def test_a_container_that_ended_by_itself_is_taken_down_and_says_why(world: World, side: ControlSide) -> None:
    event = exited(world, expected=False)
    side.container_event(event)
    world.answer_all()
    side.container_event(event)  # delivered twice
    container = world.container("web")
    assert container is not None and container.state == "stopped" and container.wanted == "running"
    assert events(world, "exited") == ["it ended with status 3"]
    with world.store.read() as session:
        (stop,) = session.scalars(select(Operation).where(Operation.kind == "stop")).all()
    assert stop.asked_by == "the platform" and stop.reason == "it ended with status 3" and stop.state == "done"


def test_an_end_before_the_start_was_reported_is_not_forgotten(world: World, side: ControlSide) -> None:
    """A command that fails at once ends before the control side knows that it began, and its news may be told first or last."""
    for name, news_first in (("early", True), ("late", False)):
        world.create(name)
        made = world.container(name)
        assert made is not None
        init = {"pid": 4711, "started_at": 123456}
        event = ContainerEvent(node="alpha", container=made.id, kind="exited", message="it ended with status 127", at=now(), details=init)
        if news_first:
            side.container_event(event)
        world.answer_all(results={"sandbox": init})
        if not news_first:
            side.container_event(event)
            world.answer_all()
        ended = world.container(name)
        assert ended is not None and ended.state == "stopped", name
    assert events(world, "exited") == ["it ended with status 127"] * 2


def test_an_end_that_was_told_again_is_acted_on_and_written_once(world: World, side: ControlSide) -> None:
    """Its container was busy with something else when the news came; a reminder, or that operation's end, makes up for it."""
    container = world.container("web")
    assert container is not None
    event = exited(world, expected=False)
    resize = world.ask(requests.resize, "web", LimitsChange(cpu=0.1))
    side.container_event(event)
    assert world.operation(resize).state == "running"
    world.answer_all()
    stopped = world.container("web")
    assert stopped is not None and stopped.state == "stopped"
    side.container_event(event)
    assert events(world, "exited") == ["it ended with status 3"]
    assert world.sent == []


def test_an_end_of_another_init_stops_nothing(world: World, side: ControlSide) -> None:
    restart = world.ask(requests.power, "web", "restart", {})
    world.answer_all(results={"sandbox": {"pid": 2, "started_at": 20}})
    assert world.operation(restart).state == "done"
    side.container_event(exited(world, pid=1, started_at=10))
    container = world.container("web")
    assert container is not None and container.state == "running"
    side.container_event(exited(world, pid=2, started_at=20))
    world.answer_all()
    container = world.container("web")
    assert container is not None and container.state == "stopped"


def test_an_end_that_was_asked_for_is_no_event(world: World, side: ControlSide) -> None:
    side.container_event(exited(world, expected=True))
    assert events(world, "exited") == []


def test_late_news_of_a_replaced_init_stops_nothing(world: World, side: ControlSide) -> None:
    event = exited(world, expected=False).model_copy(update={"at": now() - timedelta(minutes=1)})
    side.container_event(event)
    container = world.container("web")
    assert container is not None and container.state == "running"


def test_news_of_a_container_that_is_gone_is_nothing(world: World, side: ControlSide) -> None:
    side.container_event(ContainerEvent(node="alpha", container="nobody", kind="oom", message="x"))
    assert events(world, "oom") == []


def test_leftovers_on_a_server_are_told_and_the_unwanted_deleted(world: World, side: ControlSide) -> None:
    with world.store.write() as session:
        row = session.scalars(select(Container)).one()
        row.state, row.wanted = "error", "absent"
        node = row.node.name if row.node else ""
    facts = FACTS.model_copy(update={"containers": ["strang3r"]})
    side.hello(Hello(node=node, instance="new", facts=facts))
    world.answer_all()
    assert world.container("web") is None
    assert events(world, "leak") == [f"server {node} holds container strang3r, which no row owns"]


def test_a_server_that_lost_its_containers_starts_them_again(world: World, side: ControlSide) -> None:
    container = world.container("web")
    assert container is not None
    with world.store.read() as session:
        (node,) = session.scalars(select(Node.name).where(Node.id == container.node_id))
    still = FACTS.model_copy(update={"containers": [container.id], "running": [container.id]})
    side.hello(Hello(node=node, instance="one", facts=still))
    assert world.sent == []
    side.hello(Hello(node=node, instance="two", facts=FACTS.model_copy(update={"containers": [container.id]})))
    side.hello(Hello(node=node, instance="three", facts=FACTS.model_copy(update={"containers": [container.id]})))
    world.answer_all()
    with world.store.read() as session:
        (restart,) = session.scalars(select(Operation).where(Operation.kind == "restart")).all()
    assert restart.state == "done" and restart.reason == f"server {node} came back without it"


def test_an_unknown_worker_is_asked_to_greet(world: World, side: ControlSide, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(side.broker, "ask_greeting", asked.append)
    side.heartbeat(Heartbeat(node="alpha", instance="unknown", sent_at=now()))
    assert asked == ["alpha"]


def test_what_a_server_has_of_a_container_that_lives_elsewhere_is_reaped_but_not_during_a_move(world: World, side: ControlSide) -> None:
    container = world.container("web")
    assert container is not None
    holds = FACTS.model_copy(update={"containers": [container.id]})

    def greet(node: str, instance: str) -> None:
        fact = WireFact(address=f"{node}:8470", fingerprint="ab" * 32)
        side.hello(Hello(node=node, instance=instance, facts=holds.model_copy(update={"wire": fact, "running": [container.id]})))

    def others() -> list[list[str]]:
        return [[batch.node, *(order.verb for order in batch.steps)] for batch in world.sent]

    with world.store.read() as session:
        home = session.get_one(Node, container.node_id).name
    other = "beta" if home == "alpha" else "alpha"
    greet(home, "one")
    greet(other, "one")
    assert world.sent == [] and len(events(world, "leak")) == 1, "no move says how it came there"
    failed = world.ask(mobility_requests.migrate, "web", other)
    greet(other, "two")
    assert {batch.operation for batch in world.sent} == {failed}, "an open operation decides what stays where"
    world.answer(world.sent.pop(), fail="prepare")
    world.sent.pop(0)
    world.answer_all()
    greet(other, "three")
    assert others() == [[other, "move.discard"]] and world.sent[0].steps[0].payload == {"operation": failed}
    world.answer_all()
    moved = world.ask(mobility_requests.migrate, "web", other)
    world.answer_all()
    greet(other, "four")
    assert world.sent == []
    greet(home, "four")
    assert others() == [[home, "move.clean"]] and world.sent[0].steps[0].payload == {"operation": moved}
    world.answer_all()
    after = world.container("web")
    assert after is not None and after.state == "running" and len(events(world, "leak")) == 1
    world.ask(requests.delete, "web")
    world.answer_all()
    greet(home, "five")
    assert others() == [[home, "move.clean"]] and world.sent[0].spec is not None, "of a container that is deleted meanwhile too"
    with world.store.read() as session:
        assert world.sent[0].fence > session.get_one(Operation, moved).fence
