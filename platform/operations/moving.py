"""What every move between two servers has in common: who takes part, what both promise meanwhile, and whose the container is at the end."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, NoRoom, Unsupported
from hostler.core.lifecycle import State
from hostler.core.limits import Limits
from hostler.operations import mobility_steps, promises
from hostler.operations.candidates import candidate
from hostler.operations.kind import Provider
from hostler.operations.mobility_steps import Side
from hostler.operations.steps import Step
from hostler.placement.choose import Overcommit, choose, resolve_drivers
from hostler.store import checkpoints, nodes
from hostler.store.models import Checkpoint, Container, Node, Operation
from hostler.store.nodes import find_node


@dataclass(frozen=True)
class Route:
    """From where to where. ``reasons``: a sentence for each server that was looked at."""

    source: Node
    target: Node
    reasons: dict[str, str]


def choose_route(session: Session, container: Container, to: str | None, ratio: Overcommit, wanted: Limits) -> Route:
    """Where a container moves: to the server asked for, or the best of the others. All servers' rows are locked.

    Raises :class:`NoRoom`, :class:`NotFound`, :class:`Conflict` and :class:`Unavailable`, in words.
    """
    rows = session.scalars(select(Node).order_by(Node.name).with_for_update()).all()
    source = next(row for row in rows if row.id == container.node_id)
    mobility_steps.check_online(source)
    if to is None:
        others = [row for row in rows if row.id != source.id]
        choice = choose([candidate(row) for row in others], wanted, container.drivers, ratio)
        return Route(source, next(row for row in others if row.name == choice.node), choice.reasons)
    find_node(session, to)
    target = next(row for row in rows if row.name == to)
    if target.id == source.id:
        raise Conflict(f"container {container.name} is on {to} already", hint="name another server, or leave it out to have one chosen", code="same_node")
    drivers = resolve_drivers(candidate(target), container.drivers)
    if isinstance(drivers, str):
        raise NoRoom(f"server {to} {drivers}", hint="a container keeps its drivers: hostler plugins shows which servers have them", code="no_driver")
    return Route(source, target, {to: "asked for"})


def claim(session: Session, op: Operation, container: Container, route: Route, wanted: Limits, provider: Provider) -> tuple[Side, Side]:
    """Hold room for the container on the target as well, and write down who takes part. Raises :class:`NoRoom` and :class:`Unsupported`."""
    sides = mobility_steps.side(route.source), mobility_steps.side(route.target)
    check_sends(route, container)
    slot = _slot(session, container, route.target)
    promises.take(session, route.target, wanted, provider.overcommit)
    op.args = op.args | {"source": route.source.id, "target": route.target.id, "slot": slot, "from": route.source.name, "chosen": route.target.name}
    return sides


def check_sends(route: Route, container: Container) -> None:
    """Raise :class:`Unsupported` where the container's storage driver cannot send volumes between the two servers."""
    name = container.drivers.get("storage", "")
    for node in (route.source, route.target):
        facts = [fact for fact in node.facts.get("drivers", []) if (fact["group"], fact["name"]) == ("storage", name)]
        if not any("send_delta" in fact.get("capabilities", []) for fact in facts):
            raise Unsupported(
                f"storage driver {name} on server {node.name} cannot send volumes to other servers",
                hint="make the container with one that can, such as btrfs: hostler plugins", code="cannot_send",
            )  # fmt: skip


def _slot(session: Session, container: Container, target: Node) -> int | None:
    """The range of host ids on the target: the same, since processes in memory have them; a stopped container may take another."""
    taken = session.scalar(select(Container.name).where(Container.node_id == target.id, Container.id_slot == container.id_slot))
    if taken is None:
        return container.id_slot
    if container.state == State.STOPPED:
        return nodes.free_slot(session)
    raise Conflict(
        f"container {taken} on server {target.name} has the same host ids as {container.name}",
        hint="stop it first, then it can move; or choose another server", code="ids_taken",
    )  # fmt: skip


def new_ticket() -> str:
    """32 random bytes in hex, with which the source opens the target's wire, once."""
    return secrets.token_hex(32)


def travel(op: Operation, sides: tuple[Side, Side], methods: Sequence[str], what: str, suspended: str | None = None) -> list[Step]:
    """From the target's preparation to the hand-over."""
    source, target = sides
    ticket = new_ticket()
    return [
        *mobility_steps.prepare(source, target, op.id, ticket, suspended),
        mobility_steps.move_out(source, target, op.id, ticket, methods, suspended, what),
    ]


def arrived(session: Session, op: Operation, container: Container) -> None:
    """The container is the target's: its row says so, and the source's promise is taken back. Checkpoints that could not follow are forgotten;
    that which holds its memory went with it."""
    promises.give_back(session, op.args["source"], promises.held(container))
    container.node_id, container.id_slot = op.args["target"], op.args["slot"]
    for row in checkpoints.of_container(session, container.id):
        if row.id == container.checkpoint_id:
            row.node_id, row.snapshot = op.args["target"], None  # the volume itself is of that instant; the snapshot did not travel
        else:
            checkpoints.forget(session, row)
    session.flush()
    session.expire(container, ["node"])


def stayed(session: Session, op: Operation, wanted: Limits) -> None:
    """The container is the source's as before: the target's promise is taken back."""
    promises.give_back(session, op.args["target"], wanted)


def drop_checkpoints(session: Session, container: Container, node: str, allowed: bool) -> list[Step]:
    """Steps that remove what cannot follow. Raises :class:`Conflict` when that was not allowed."""
    rows = [row for row in checkpoints.of_container(session, container.id) if row.id != container.checkpoint_id]
    if rows and not allowed:
        raise Conflict(
            f"{container.name} has {len(rows)} checkpoint{'s' if len(rows) > 1 else ''} on {node}, which cannot follow it",
            hint="remove them first (hostler checkpoint rm), or have them removed: --drop-checkpoints", code="has_checkpoints",
        )  # fmt: skip
    return [mobility_steps.remove(node, row, afterwards=True) for row in rows]


def left_behind(session: Session, container: Container, node: str) -> list[Step]:
    """The file of a suspended container's memory on the server that it left."""
    row = session.get(Checkpoint, container.checkpoint_id) if container.checkpoint_id is not None else None
    return [] if row is None else [mobility_steps.remove(node, row, afterwards=True)]


def report(op: Operation, steps: Sequence[Step]) -> dict[str, object]:
    """What the source said of the move, and between whom it was."""
    moved = mobility_steps.outcome(steps, "move.out")
    told = moved.result or {} if moved is not None else {}
    shown = {key: told[key] for key in ("method", "why", "frozen_ms", "bytes", "phases", "rounds") if key in told}
    return {"from": op.args["from"], "to": op.args["chosen"]} | shown


def memory_of(session: Session, container: Container) -> Checkpoint:
    """The checkpoint that holds a suspended container's memory. Raises :class:`Conflict` when there is none that could be used."""
    row = session.get(Checkpoint, container.checkpoint_id) if container.checkpoint_id is not None else None
    if row is None:
        raise Conflict(f"container {container.name} has no memory on disk", hint="start it: hostler start", code="wrong_state")
    if row.state != "ready":
        raise Conflict(f"the memory of {container.name} on disk is {row.state}", hint="give it up: hostler stop --discard-memory, then start it", code="wrong_state")
    return row
