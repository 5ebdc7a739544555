"""Verbs about checkpoints as files that leave the installation and come into it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hostler.core.messages import Batch
from hostler.core.names import Id
from hostler.node.mobility import exports, target
from hostler.node.verbs import Nothing, Payload, Server, Verb, spec_of


class ExportPayload(Payload):
    """A checkpoint, where its file is handed in, and how many bytes that may have."""

    checkpoint: Id
    url: str
    limit: int = Field(gt=0)


class ImportPayload(Payload):
    """Where an uploaded file is, and which it is."""

    url: str
    size: int = Field(ge=0)
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


def export(server: Server, batch: Batch, payload: ExportPayload) -> dict[str, Any]:
    """A checkpoint with its files, to the panel."""
    return exports.export(server, spec_of(batch), payload.checkpoint, payload.url, payload.limit)


def bring_in(server: Server, batch: Batch, payload: ImportPayload) -> dict[str, Any]:
    """A container from such a file, held."""
    return exports.bring_in(server, batch, spec_of(batch), payload.url, payload.size, payload.digest)


def discard(server: Server, batch: Batch, _: Nothing) -> None:
    """Nothing of it stays."""
    target.clean(server, spec_of(batch))


VERBS: tuple[Verb, ...] = (
    Verb("checkpoint.export", ExportPayload, export),
    Verb("checkpoint.import", ImportPayload, bring_in),
    Verb("checkpoint.discard", Nothing, discard),
)
