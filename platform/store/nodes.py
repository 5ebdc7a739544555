"""Servers in the store: what they promised, who lives there, whether they are heard."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, NotFound, Unavailable
from hostler.core.limits import Limits
from hostler.core.messages import Heartbeat, Hello, WireFact, now
from hostler.core.names import check_name
from hostler.store.events import add_event
from hostler.store.models import Container, Node

#: A server that was not heard for so long is offline. Pings go out every 5 s.
SILENCE = timedelta(seconds=20)


def add_node(session: Session, name: str) -> Node:
    """Make a server known. Raises :class:`Conflict` when the name is taken."""
    check_name(name)
    if session.scalar(select(Node.id).where(Node.name == name)):
        raise Conflict(f"server {name} exists already", hint="choose another name", code="name_taken")
    node = Node(name=name)
    session.add(node)
    session.flush()
    return node


def find_node(session: Session, name: str) -> Node:
    """By name. Raises :class:`NotFound`."""
    node = session.scalar(select(Node).where(Node.name == name))
    if node is None:
        raise NotFound(f"there is no server {name}", hint="hostler node list shows them")
    return node


def wire_of(node: Node) -> WireFact:
    """Where other servers connect to a server, and what they know it by. Raises :class:`Unavailable` (``no_wire``) when they cannot."""
    if not node.facts.get("wire"):
        raise Unavailable(
            f"server {node.name} cannot be reached by other servers",
            hint="set HOSTLER_NODE_WIRE_LISTEN for its worker and restart it; its log says if that address cannot be listened on", code="no_wire",
        )  # fmt: skip
    return WireFact.model_validate(node.facts["wire"])


def greet(session: Session, hello: Hello) -> Node:
    """Write down that a server's worker has started."""
    node = find_node(session, hello.node)
    facts = hello.facts
    node.instance, node.facts, node.seen_at, node.state = hello.instance, facts.model_dump(mode="json"), now(), "online"
    node.cpus, node.memory, node.disk = facts.capacity.cpus, facts.capacity.memory, facts.capacity.disk
    add_event(session, "node_online", f"server {node.name} is online", node=node.name)
    return node


def hear(session: Session, beat: Heartbeat) -> bool:
    """Write down that a server answered a ping that went through its own queue.

    False when its worker is one that has not greeted yet (its greeting was lost): it must be asked to.
    """
    node = find_node(session, beat.node)
    if node.instance != beat.instance:
        return False
    if node.state == "offline":
        add_event(session, "node_online", f"server {node.name} answers again", node=node.name)
        node.state = "online"
    node.seen_at, node.disk_free, node.load = now(), beat.disk_free, beat.load
    return True


def mark_silent(session: Session) -> list[str]:
    """Mark servers offline that were not heard for :data:`SILENCE`; their names."""
    silent = session.scalars(select(Node).where(Node.state == "online", Node.seen_at < now() - SILENCE)).all()
    for node in silent:
        node.state = "offline"
        add_event(session, "node_offline", f"server {node.name} was not heard for {SILENCE.seconds} s", node=node.name)
    return [node.name for node in silent]


def promise(session: Session, node_id: str, limits: Limits, sign: int = 1) -> None:
    """Add a container's limits to what its server has promised (``sign`` -1: take them off)."""
    node = session.get_one(Node, node_id, with_for_update=True)
    # in thousandths of a CPU, so that what is taken off is what was added
    node.cpus_promised = (round(node.cpus_promised * 1000) + sign * round((limits.cpu or 0) * 1000)) / 1000
    node.memory_promised += sign * (limits.memory or 0)
    node.disk_promised += sign * (limits.disk or 0)
    session.flush()


def free_slot(session: Session) -> int:
    """The lowest range of host ids that no container has, on whichever server: what is in memory keeps its ids when it moves.

    Callers hold a lock on all servers' rows, so that no two take the same."""
    taken = set(session.scalars(select(Container.id_slot).where(Container.id_slot.is_not(None))))
    slot = 0
    while slot in taken:
        slot += 1
    return slot
