"""The verbs that a server knows, each a few calls of drivers. All are idempotent; ``sandbox.exec`` alone never runs twice.

A verb takes the server, the batch it came in (whose ``spec`` is the container), and its payload. What it returns becomes the step's result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from hostler.contracts.driver import Host
from hostler.core.errors import HostlerError
from hostler.core.messages import Batch
from hostler.core.specs import ContainerSpec
from hostler.mobility.keys import Key
from hostler.node.archives import Archives
from hostler.node.drivers import Drivers
from hostler.node.journal import Journal
from hostler.node.wire.wire import Wire


@dataclass
class Server:
    """What verbs work with on this server."""

    host: Host
    drivers: Drivers
    archives: Archives
    nudge: Callable[[str], object]
    """Tells the watch that a container came or went."""
    build_netns: str = ""
    """Network namespace that reaches package mirrors; empty: the server's own."""
    wire: Wire | None = None
    """What other servers connect to; none when no address was given for it, or it cannot be listened on."""
    journal: Journal | None = None
    """What the server has promised; none where nothing is ever moved."""
    key: Callable[[], Key | None] = lambda: None
    """The key that checkpoints are encrypted with, read anew each time; None where they are not. Raises for a key that cannot be read:
    then no checkpoint is written, rather than a plain one."""


class Payload(BaseModel):
    """Base of verbs' payloads."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Payload):
    """For verbs that need no more than the spec."""


@dataclass(frozen=True)
class Verb:
    """A verb with its payload's model. One that is not ``repeatable`` is not run again after a crash in its middle."""

    name: str
    payload: type[Payload]
    act: Callable[[Server, Batch, Any], dict[str, Any] | None]
    repeatable: bool = True

    def __call__(self, server: Server, batch: Batch, payload: dict[str, Any]) -> dict[str, Any] | None:
        return self.act(server, batch, self.payload.model_validate(payload))


def spec_of(batch: Batch) -> ContainerSpec:
    """The container that a batch is about. Raises when there is none: the message is not one of ours."""
    if batch.spec is None:
        raise HostlerError("the message holds no container", hint="bring all servers to one version", code="bad_message")
    return batch.spec
