"""Servers in the store: greeting, silence, promises, id ranges."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from hostler.core.errors import Conflict, Unavailable
from hostler.core.limits import Limits
from hostler.core.messages import Capacity, Heartbeat, Hello, NodeFacts, WireFact, now
from hostler.store import nodes
from hostler.store.engine import Store
from hostler.store.models import Event, Node
from hostler.web.api.shapes import node_out

FACTS = NodeFacts(kernel="6", architecture="x86_64", capacity=Capacity(cpus=2, memory=1 << 30, disk=1 << 30))


def beat(instance: str) -> Heartbeat:
    """A sign of life of a worker."""
    return Heartbeat(node="alpha", instance=instance, sent_at=now())


def test_a_server_tells_its_wire_with_each_greeting(store: Store) -> None:
    wire = WireFact(address="198.18.0.11:8653", fingerprint="a" * 64)
    with store.write() as session:
        node = nodes.add_node(session, "alpha")
        for told in (None, wire, None):
            nodes.greet(session, Hello(node="alpha", instance="one", facts=FACTS.model_copy(update={"wire": told})))
            session.flush()
            assert node_out(node, 0).wire == told
            if told is not None:
                assert nodes.wire_of(node) == told
                continue
            with pytest.raises(Unavailable) as failure:
                nodes.wire_of(node)
            assert failure.value.stable_code == "no_wire"


def test_a_server_greets_falls_silent_and_is_heard_again(store: Store) -> None:
    with store.write() as session:
        nodes.add_node(session, "alpha")
        with pytest.raises(Conflict):
            nodes.add_node(session, "alpha")
    with store.write() as session:
        assert not nodes.hear(session, beat("one"))
        nodes.greet(session, Hello(node="alpha", instance="one", facts=FACTS))
        assert nodes.hear(session, beat("one"))
    with store.write() as session:
        assert nodes.mark_silent(session) == []
        session.execute(update(Node).values(seen_at=now() - nodes.SILENCE - timedelta(seconds=1)))
    with store.write() as session:
        assert nodes.mark_silent(session) == ["alpha"]
        assert nodes.find_node(session, "alpha").state == "offline"
    with store.write() as session:
        assert not nodes.hear(session, beat("another"))
        assert nodes.find_node(session, "alpha").state == "offline"
        assert nodes.hear(session, beat("one"))
        assert nodes.find_node(session, "alpha").state == "online"
    with store.read() as session:
        kinds = session.scalars(select(Event.kind).order_by(Event.id)).all()
    assert kinds == ["node_online", "node_offline", "node_online"]


def test_promises_add_up_and_come_off(store: Store) -> None:
    limits = Limits.model_validate({"cpu": 0.5, "memory": "256M", "disk": "1G"})
    with store.write() as session:
        node = nodes.add_node(session, "alpha")
        nodes.promise(session, node.id, limits)
        nodes.promise(session, node.id, limits)
        nodes.promise(session, node.id, limits, sign=-1)
        session.refresh(node)
        assert (node.cpus_promised, node.memory_promised, node.disk_promised) == (0.5, 256 << 20, 1 << 30)
        assert nodes.free_slot(session) == 0
