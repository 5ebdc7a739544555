"""The steps of checkpoints, restores and moves. Pure.

A move's four parts each run on one server, in this order: the target prepares, the source sends and hands over, the target lets run, the source
cleans up. From the hand-over on the container is the target's, whatever happens: that step settles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hostler.core.errors import Unavailable, Unsupported
from hostler.operations.steps import Step, StepState
from hostler.store.models import Checkpoint, Node

#: The ways to move what runs, best first.
LIVE = ("pre_copy", "post_copy", "stop_copy")
#: The volume alone travels.
VOLUME_ONLY = ("restart",)


@dataclass(frozen=True)
class Side:
    """A server that takes part in a move, and where other servers connect to it."""

    name: str
    address: str
    fingerprint: str


def side(node: Node) -> Side:
    """Of a server's row. Raises :class:`Unsupported` for one that other servers cannot connect to."""
    wire = node.facts.get("wire")
    if not wire:
        raise Unsupported(
            f"other servers cannot connect to server {node.name}",
            hint="set HOSTLER_NODE_WIRE_LISTEN on it and restart its worker; hostler node show tells its address", code="no_wire",
        )  # fmt: skip
    return Side(node.name, wire["address"], wire["fingerprint"])


def check_online(node: Node) -> None:
    """Raise :class:`Unavailable` for a server that is away: what is begun on one is waited for however long."""
    if node.state != "online":
        raise Unavailable(f"server {node.name} is offline", hint="wait until it is back: hostler node list tells", code="node_offline")


def take(node: str, checkpoint: str, *, keep: bool) -> Step:
    """A checkpoint of a running container. Without ``keep`` it stays frozen, and then there is no way back: the checkpoint is what there is of it."""
    return Step(
        name="checkpoint", node=node, verb="checkpoint.create", payload={"checkpoint": checkpoint, "keep": keep}, undo="checkpoint.cancel",
        undo_payload={"checkpoint": checkpoint}, weight=4, note="memory and files of one instant to disk" if keep else "memory to disk", settles=not keep,
        awaited=not keep,
    )  # fmt: skip


def leave(node: str) -> list[Step]:
    """Take down what is frozen or left of a container, all but its volume."""
    return [
        Step(name="network", node=node, verb="network.detach"),
        Step(name="sandbox", node=node, verb="sandbox.delete", note="memory and processors are given back"),
        Step(name="limits", node=node, verb="limits.remove"),
    ]


def come_back(node: str, checkpoint: str, *, rollback: bool = False, close_connections: bool = False, source: str | None = None) -> list[Step]:
    """Bring a container back from a checkpoint, its own or that of ``source``."""
    payload = {"checkpoint": checkpoint, "close_connections": close_connections, "rollback": rollback, "source": source}
    note = "files and memory from disk, held" if rollback else "memory from disk, held"
    return [
        Step(name="limits", node=node, verb="limits.create", undo="limits.remove"),
        Step(name="restore", node=node, verb="checkpoint.restore", payload=payload, undo="checkpoint.abandon", weight=4, note=note),
        Step(name="release", node=node, verb="checkpoint.release", settles=True, awaited=True, note="it runs, and its packets flow"),
    ]


def remove(node: str, checkpoint: Checkpoint, *, afterwards: bool = False) -> Step:
    """A checkpoint's file and its snapshot."""
    payload = {"checkpoint": checkpoint.id, "snapshot": checkpoint.snapshot}
    return Step(name="remove checkpoint", node=node, verb="checkpoint.remove", payload=payload, afterwards=afterwards, note=checkpoint.id)


def prepare(source: Side, target: Side, operation: str, ticket: str, suspended: str | None) -> list[Step]:
    """What the target makes ready."""
    payload = {"operation": operation, "peer": source.fingerprint, "ticket": ticket, "suspended": suspended}
    return [
        Step(name="image", node=target.name, verb="image.ensure", note="unpacked once per server, then shared"),
        *([_no_copy(target.name, suspended)] if suspended is not None else []),
        Step(name="prepare", node=target.name, verb="move.prepare", payload=payload, undo="move.discard", undo_payload={"operation": operation}),
    ]


def _no_copy(node: str, checkpoint: str) -> Step:
    """There is no file of the checkpoint on the target: neither of an earlier try, nor of this one should it be undone."""
    payload = {"checkpoint": checkpoint, "snapshot": None}
    return Step(name="no copy", node=node, verb="checkpoint.remove", payload=payload, undo="checkpoint.remove", undo_payload=payload, note=checkpoint)


def move_out(source: Side, target: Side, operation: str, ticket: str, methods: Sequence[str], suspended: str | None, what: str) -> Step:
    """What the source sends, up to the hand-over. ``what`` travels, in words."""
    payload = {
        "operation": operation, "address": target.address, "peer": target.fingerprint, "ticket": ticket, "methods": list(methods), "suspended": suspended,
    }  # fmt: skip
    return Step(
        name="move", node=source.name, verb="move.out", payload=payload, undo="move.back", undo_payload={"operation": operation}, weight=8,
        note=f"{what} to {target.name}", settles=True, awaited=True,
    )  # fmt: skip


def move_in(target: Side, operation: str, note: str) -> Step:
    """The target lets run what it was handed."""
    return Step(name="arrive", node=target.name, verb="move.in", payload={"operation": operation}, note=note, awaited=True)


def clean(node: str, operation: str) -> Step:
    """Remove what a container has left on a server that it is not on any more."""
    return Step(name="clean up", node=node, verb="move.clean", payload={"operation": operation}, afterwards=True, note=f"what was left on {node}")


def outcome(steps: Sequence[Step], verb: str) -> Step | None:
    """The last done step of that verb."""
    return next((step for step in reversed(steps) if step.verb == verb and step.state == StepState.DONE), None)


def hook(steps: Sequence[Step]) -> dict[str, Any]:
    """How the container's own program went that is run once it is back; empty for a container without one."""
    step = outcome(steps, "checkpoint.release") or outcome(steps, "move.in")
    told = (step.result or {}).get("hook") if step is not None else None
    return {} if told is None else {"hook": told}


def handed_over(steps: Sequence[Step]) -> bool:
    """Whether the container is the target's."""
    return outcome(steps, "move.out") is not None


def begun(steps: Sequence[Step], verb: str) -> bool:
    """Whether a server was told to do it."""
    return any(step.verb == verb and step.state != StepState.PENDING for step in steps)


def as_before(steps: Sequence[Step], node: str) -> bool:
    """Whether all that was begun on a server and can be undone was undone."""
    return all(step.state in (StepState.PENDING, StepState.UNDONE) for step in steps if step.node == node and step.undo is not None)
