"""Verbs about memory: checkpoints taken and brought back, containers that leave and arrive."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hostler.core.errors import Conflict
from hostler.core.messages import Batch, WireFact
from hostler.core.names import Id
from hostler.node.container_verbs import remembered
from hostler.node.mobility import checkpoints, hooks, revival, source, target
from hostler.node.verbs import Nothing, Payload, Server, Verb, spec_of

#: How a container may travel.
Method = Literal["pre_copy", "post_copy", "stop_copy", "restart"]


class CreatePayload(Payload):
    """``keep``: the container goes on afterwards; else it is left at a standstill, to be taken down."""

    checkpoint: Id
    keep: bool


class CheckpointPayload(Payload):
    """A checkpoint."""

    checkpoint: Id


class RemovePayload(Payload):
    """A checkpoint, and the snapshot of the volume that belongs to it."""

    checkpoint: Id
    snapshot: str | None = None


class RestorePayload(Payload):
    """``rollback``: the volume too becomes what it was. ``source``: the checkpoint is of that other container."""

    checkpoint: Id
    close_connections: bool = False
    rollback: bool = False
    source: Id | None = None


class ClonePayload(Payload):
    """Another container's volume as it was at a snapshot."""

    source: Id
    snapshot: str


class MovePayload(Payload):
    """A move, by its operation."""

    operation: Id


class PreparePayload(MovePayload):
    """Who comes: fingerprint of the other server's certificate, and the secret that both were told."""

    peer: str
    ticket: str
    suspended: Id | None = None


class OutPayload(MovePayload):
    """Where to."""

    address: str
    peer: str
    ticket: str
    methods: list[Method] = Field(min_length=1)
    suspended: Id | None = None


def examine(server: Server, batch: Batch, _: Nothing) -> dict[str, Any]:
    """What keeps a container from being checkpointed, and how much memory it has."""
    spec = spec_of(batch)
    shape = server.drivers.ns(spec.drivers.ns).shape(spec.id)
    found = server.drivers.checkpoint().examine(shape)
    return {"obstacles": [one.model_dump() for one in found], "memory": server.drivers.limits(spec.drivers.limits).usage(spec.id).memory}


def create(server: Server, batch: Batch, payload: CreatePayload) -> dict[str, Any]:
    """Memory and files of one instant."""
    return checkpoints.create(server, spec_of(batch), batch.operation, payload.checkpoint, keep=payload.keep)


def cancel(server: Server, batch: Batch, payload: CheckpointPayload) -> None:
    """The container goes on, and there is no checkpoint."""
    checkpoints.cancel(server, spec_of(batch), payload.checkpoint)


def remove(server: Server, batch: Batch, payload: RemovePayload) -> None:
    """File and snapshot."""
    checkpoints.remove(server, spec_of(batch), payload.checkpoint, payload.snapshot)


def restore(server: Server, batch: Batch, payload: RestorePayload) -> dict[str, Any]:
    """Processes, memory and links back, held."""
    spec = spec_of(batch)
    revived = checkpoints.restore(
        server, spec, payload.checkpoint, rollback=payload.rollback, close_connections=payload.close_connections, source=payload.source
    )
    return {"pid": revived.pid, "started_at": revived.started_at, "ms": revived.milliseconds}


def abandon(server: Server, batch: Batch, _: Nothing) -> None:
    """What was restored is ended."""
    spec = spec_of(batch)
    revival.undo(server, spec)
    revival.clear(server, spec.id)


def release(server: Server, batch: Batch, _: Nothing) -> dict[str, Any] | None:
    """What was restored runs."""
    spec = spec_of(batch)
    revival.let_go(server, spec)
    event = hooks.expected(server, spec.id)
    revival.clear(server, spec.id)  # before the hook, which is run once at most
    return _told(hooks.after(server, remembered(server.host, spec.id) or spec, event))  # an imported one's process is known here alone


def _told(hook: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if hook is None else {"hook": hook}


def clone(server: Server, batch: Batch, payload: ClonePayload) -> None:
    """The volume of a container that is made of another one."""
    spec = spec_of(batch)
    server.drivers.storage(spec.drivers.storage).clone(payload.source, payload.snapshot, spec.id, spec.limits.disk)


def prepare(server: Server, batch: Batch, payload: PreparePayload) -> None:
    """Expect a container."""
    target.prepare(server, spec_of(batch), payload.operation, payload.peer, payload.ticket)


def discard(server: Server, batch: Batch, payload: MovePayload) -> None:
    """It does not come."""
    target.discard(server, spec_of(batch), payload.operation)


def out(server: Server, batch: Batch, payload: OutPayload) -> dict[str, Any]:
    """Send it."""
    spec = spec_of(batch)
    allowed = [] if payload.suspended is not None else [method for method in payload.methods if method != "restart"]
    peer = WireFact(address=payload.address, fingerprint=payload.peer)
    return source.leave(server, spec, payload.operation, peer, payload.ticket, allowed=allowed, checkpoint=payload.suspended)


def back(server: Server, batch: Batch, payload: MovePayload) -> None:
    """It goes on here."""
    source.come_back(server, spec_of(batch), payload.operation)


def arrive(server: Server, batch: Batch, payload: MovePayload) -> dict[str, Any] | None:
    """It belongs to this server now. One that came with its memory runs."""
    spec = spec_of(batch)
    live = revival.images_of(server, spec.id).parent.is_dir()
    found = target.settle(server, spec, payload.operation)
    return found if found is None else found | (_told(hooks.after(server, spec, "migrate" if live else None)) or {})


def clean(server: Server, batch: Batch, payload: MovePayload) -> None:
    """Nothing of it stays here. Only of one that was handed over."""
    spec = spec_of(batch)
    if server.journal is None or server.journal.handed_over(spec.id) != payload.operation:
        raise Conflict(f"container {spec.name} was not handed over by server {server.host.node}", hint="it is still this server's", code="not_handed_over")
    target.clean(server, spec)


VERBS: tuple[Verb, ...] = (
    Verb("checkpoint.examine", Nothing, examine),
    Verb("checkpoint.create", CreatePayload, create),
    Verb("checkpoint.cancel", CheckpointPayload, cancel),
    Verb("checkpoint.remove", RemovePayload, remove),
    Verb("checkpoint.restore", RestorePayload, restore),
    Verb("checkpoint.abandon", Nothing, abandon),
    Verb("checkpoint.release", Nothing, release),
    Verb("volume.clone", ClonePayload, clone),
    Verb("move.prepare", PreparePayload, prepare),
    Verb("move.discard", MovePayload, discard),
    Verb("move.out", OutPayload, out),
    Verb("move.back", MovePayload, back),
    Verb("move.in", MovePayload, arrive),
    Verb("move.clean", MovePayload, clean),
)
