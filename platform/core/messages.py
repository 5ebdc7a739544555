"""What travels between the control side and the servers, over the broker.

An operation's row is the truth. These only carry what a server needs to run steps, and what it learned.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from hostler.core.errors import ErrorReport
from hostler.core.specs import ContainerSpec


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class Direction(StrEnum):
    """Whether a batch does steps or undoes them."""

    FORWARD = "forward"
    UNDO = "undo"


class StepOrder(BaseModel):
    """One step for a server. ``payload`` is the verb's own model as JSON."""

    index: int
    name: str
    verb: str
    payload: dict[str, Any] = {}


class Batch(BaseModel):
    """Consecutive steps of one operation for one server, run in order, up to the first that fails.

    ``fence`` is the number of the claim that sent it. ``exclusive`` batches on one target never overlap on a
    server, and one with a lower fence than the server has seen for ``target`` is refused.
    """

    operation: str
    target: str
    node: str
    fence: int
    direction: Direction = Direction.FORWARD
    exclusive: bool = True
    spec: ContainerSpec | None = None
    """The container that the steps are about."""
    good_for: float = 15
    """Seconds in which the server must take it: its claim's lease. Later, the operation may have been given up or claimed anew."""
    steps: list[StepOrder]


class StepOutcome(BaseModel):
    """How one step ended on the server."""

    index: int
    result: dict[str, Any] | None = None
    error: ErrorReport | None = None
    ms: float = 0


class Report(BaseModel):
    """A server's word on a batch: while it works (``final`` false, renewing the lease) and at its end."""

    operation: str
    node: str
    fence: int
    direction: Direction
    outcomes: list[StepOutcome] = []
    final: bool
    refused: ErrorReport | None = None
    """The batch was not begun: a stale fence, or a message that cannot be read."""
    working_on: int | None = None


class Capacity(BaseModel):
    """What a server has to give."""

    cpus: float
    memory: int
    disk: int


class DriverFact(BaseModel):
    """One driver on one server."""

    group: str
    name: str
    version: str = ""
    capabilities: list[str] = []
    usable: bool
    problem: str = ""


class WireFact(BaseModel):
    """Where other servers reach this one, and what they know it by."""

    address: str = Field(max_length=300, description="host:port; IPv6 hosts in brackets")
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the certificate")


class NodeFacts(BaseModel):
    """What a server says of itself when its worker starts."""

    kernel: str
    architecture: str
    capacity: Capacity
    drivers: list[DriverFact] = []
    containers: list[str] = Field(default=[], description="ids of all containers that have anything on the server")
    running: list[str] = Field(default=[], description="ids of those whose init runs")
    wire: WireFact | None = Field(default=None, description="none: other servers cannot connect to it")


class Hello(BaseModel):
    """A node worker has started. ``instance`` is new with every start."""

    node: str
    instance: str
    facts: NodeFacts


class Heartbeat(BaseModel):
    """Answer to a ping that went through the node's own queue."""

    node: str
    instance: str
    sent_at: datetime
    disk_free: int = 0
    load: float = 0
    memory_available: int = 0


class ContainerEvent(BaseModel):
    """Something that happened to a container on its server, outside any operation."""

    node: str
    container: str
    kind: str
    message: str
    at: datetime = Field(default_factory=now)
    details: dict[str, Any] = {}
