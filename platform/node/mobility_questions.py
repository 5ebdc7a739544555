"""What a server can be asked about memory and moves: read, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import field_validator

from hostler.contracts.storage import StorageCapabilities
from hostler.core.errors import HostlerError
from hostler.core.names import Id
from hostler.core.specs import ContainerSpec
from hostler.mobility import fit
from hostler.mobility.fit import Leaving, Place
from hostler.mobility.methods import Method
from hostler.mobility.reading import verify
from hostler.mobility.shelf import Shelved
from hostler.node.facts import memory_info
from hostler.node.mobility import checkpoints
from hostler.node.verbs import Nothing, Payload, Server


class ContainerQuestion(Payload):
    """A container, as its server knows it."""

    spec: ContainerSpec


class FitQuestion(Payload):
    """A container that might come. ``facts`` are its server's answer to ``checkpoint.examine``; none of one that does not run."""

    spec: ContainerSpec
    facts: Leaving | None = None

    @field_validator("facts", mode="before")
    @classmethod
    def _nothing_is_none(cls, value: object) -> object:
        return value or None


class CheckpointQuestion(Payload):
    """A checkpoint on this server."""

    checkpoint: Id


def examine(server: Server, question: ContainerQuestion) -> dict[str, Any]:
    """What keeps a running container from being checkpointed, the bytes of memory it has, and what its server says to one it could move to.

    Raises :class:`Conflict` for one that does not run."""
    spec = question.spec
    shape = server.drivers.ns(spec.drivers.ns).shape(spec.id)
    found = server.drivers.checkpoint().examine(shape)
    memory = server.drivers.limits(spec.drivers.limits).usage(spec.id).memory
    storage = server.drivers.storage(spec.drivers.storage)
    leaving = Leaving(
        host=checkpoints.host_facts(server), methods=methods(server, spec), memory=memory, disk=storage.usage(spec.id).used,
        sends=_travels(storage.capabilities),
    )
    return {"obstacles": [one.model_dump() for one in found], "memory": memory, "facts": leaving.model_dump(mode="json")}


def fits(server: Server, question: FitQuestion) -> dict[str, Any]:
    """What is against a container's coming here, and how it could come: ``methods``, best first, and why the first."""
    place = _place(server, question.spec)
    found = [asdict(one) for one in fit.misfits(question.spec, question.facts, place)]
    able = fit.methods(question.facts, place) if question.facts is not None else []
    why = fit.why(question.facts, place) if question.facts is not None else ""
    return {"mismatches": found, "methods": able, "why": why}


def _place(server: Server, spec: ContainerSpec) -> Place:
    drivers, names = server.drivers, spec.drivers
    usable = {group: names.model_dump()[group] in drivers.loaded[group] for group in ("ns", "storage", "net")}
    storage = drivers.storage(names.storage) if usable["storage"] else None
    return Place(
        host=checkpoints.host_facts(server), methods=methods(server, spec), drivers=tuple(drivers.facts), wire=server.wire is not None,
        state=drivers.ns(names.ns).inspect(spec.id).state if usable["ns"] else "absent",
        receives=storage is None or _travels(storage.capabilities),
        image=storage is None or storage.has_image(spec.image.short),
        memory=memory_info()["MemAvailable"], pool=storage.free()[0] if storage is not None else None,
        links=tuple(lack for link in spec.links if usable["net"] and (lack := drivers.net(names.net).lacks_for(link)) is not None),
    )


def _travels(able: StorageCapabilities) -> bool:
    return able.send and able.send_delta


def methods(server: Server, spec: ContainerSpec) -> dict[str, str]:
    """Method → why this server cannot take part in it, in words; empty: it can."""
    against = _against_all(server, spec)
    if against:
        return dict.fromkeys(map(str, Method), against)
    able = server.drivers.checkpoint().capabilities
    return {
        "pre_copy": "" if able.pre_copy else "the kernel does not tell which memory changes (CONFIG_MEM_SOFT_DIRTY)",
        "post_copy": "" if able.post_copy else "memory cannot be sent for as it is needed (userfaultfd)",
        "stop_copy": "",
    }


def _against_all(server: Server, spec: ContainerSpec) -> str:
    try:
        server.drivers.checkpoint()
    except HostlerError as error:
        return error.message
    names, loaded = spec.drivers, server.drivers.loaded
    if names.ns in loaded["ns"] and not server.drivers.ns(names.ns).capabilities.checkpoint:
        return f"ns driver {names.ns} cannot have a container checkpointed"
    if spec.links and names.net in loaded["net"] and not server.drivers.net(names.net).capabilities.hold:
        return f"net driver {names.net} cannot hold a link, so that packets would be refused meanwhile"
    return ""


def listed(server: Server, _: Nothing) -> dict[str, Any]:
    """The checkpoints on this server, broken ones with the reason."""
    return {"checkpoints": [_shown(entry) for entry in checkpoints.shelf(server).entries()]}


def _shown(entry: Shelved) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": entry.id, "size": entry.size, "reason": entry.reason}
    if entry.manifest is None:
        return shown
    told = entry.manifest
    return shown | {
        "container": told.container.id, "name": told.container.name, "created_at": told.created_at.isoformat(), "node": told.node,
        "writer": f"{told.driver} {told.driver_version}", "snapshot": told.volume_snapshot, "parent": told.parent,
        "encrypted": told.filters.encryption is not None,
    }


def inspected(server: Server, question: CheckpointQuestion) -> dict[str, Any]:
    """The manifest, with what the stream itself tells: its digest, and the sizes of the parts as they are and as they are stored.

    Raises :class:`NotFound`, and :class:`Invalid` for a damaged file."""
    found = checkpoints.shelf(server).inspect(question.checkpoint)
    parts = [{"name": part.name, "kind": part.kind, "size": part.size, "stored": part.stored} for part in found.parts]
    return found.manifest.model_dump(mode="json") | {"digest": found.digest, "size": found.size, "stored": found.stored, "parts": parts}


def verified(server: Server, question: CheckpointQuestion) -> dict[str, Any]:
    """Every byte is read. Raises :class:`NotFound`, and :class:`Invalid` with what is wrong with it."""
    shelf = checkpoints.shelf(server)
    found = shelf.inspect(question.checkpoint)
    verify(shelf.path_of(question.checkpoint), server.key() if found.manifest.sealed else None)
    return {"digest": found.digest, "size": found.size, "stored": found.stored, "parts": len(found.parts)}


QUESTIONS: dict[str, tuple[type[Payload], Callable[[Server, Any], dict[str, Any]]]] = {
    "checkpoint.examine": (ContainerQuestion, examine),
    "move.fit": (FitQuestion, fits),
    "checkpoint.list": (Nothing, listed),
    "checkpoint.inspect": (CheckpointQuestion, inspected),
    "checkpoint.verify": (CheckpointQuestion, verified),
}
