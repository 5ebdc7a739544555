"""What travels between the panel and its callers: the bodies of requests and answers under ``/v1``.

The panel makes its OpenAPI document from these models and the client reads answers into them, so both sides speak of
the same fields. Answers may gain fields: whoever reads them ignores the ones it does not know. Requests refuse unknown fields.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hostler.core.errors import ErrorReport
from hostler.core.limits import Limits, LimitsChange, Usage
from hostler.core.messages import DriverFact, WireFact
from hostler.core.names import Id, Name
from hostler.core.specs import ExecSpec, ImageConfig

#: States in which an operation has ended.
ENDED = frozenset({"done", "failed", "cancelled", "needs_attention"})
#: Most entries of one page.
PAGE_LIMIT = 1000
#: Bytes that an exec'd command's output may be asked for.
OUTPUT_LIMIT = 1 << 20

_Text = Annotated[str, Field(max_length=32_768)]
T = TypeVar("T")


def _assignment(value: str) -> str:
    name, sign, _ = value.partition("=")
    if not name or not sign:
        raise ValueError("is not an environment variable; write NAME=value")
    return value


_Variable = Annotated[_Text, AfterValidator(_assignment)]


class Request(BaseModel):
    """Base of all request bodies: a field that is not known is an error, not silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="ignore")


class Page(Answer, Generic[T]):
    """Part of a list. ``next`` goes into ``after`` for the part that follows; null at the end."""

    items: list[T]
    next: str | None = None


class FieldProblem(Answer):
    """What is wrong with one field."""

    field: str = Field(description="path into the request, such as limits.memory")
    message: str


class Problem(Answer):
    """An error, as ``application/problem+json`` (RFC 9457). ``code`` is stable; ``hint`` says what to do next."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    request: str = Field(default="", description="id of the request, for the operators' log")
    fields: list[FieldProblem] = []

    def report(self) -> ErrorReport:
        """As an error of the domain."""
        detail = self.detail
        if self.fields:
            detail += ": " + "; ".join(f"{field.field}: {field.message}" if field.field else field.message for field in self.fields)
        return ErrorReport(code=self.code, message=detail, hint=self.hint, status=self.status, bug=self.code == "internal")


class Health(Answer):
    """Whether the panel can work. ``degraded``: requests are taken, and go on when the broker is back."""

    status: Literal["ok", "degraded", "down"]
    version: str
    store: bool
    broker: bool
    store_ms: float | None = None


# --- accounts, tokens, plans ---


class AccountOut(Answer):
    """A tenant, or the provider itself."""

    id: str
    name: str
    provider: bool
    cpu_weight: int
    created_at: datetime


class AccountIn(Request):
    """A new account."""

    name: Name
    provider: bool = False


class AccountShareIn(Request):
    """An account's share of processors among busy accounts. It holds on a server from the next start of one of its containers there."""

    cpu_weight: int = Field(ge=1, le=10000, description="100 is usual; 200 gets twice as much when a server is full")


class TokenOut(Answer):
    """A token, without its secret."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    current: bool = Field(description="the one that this request was made with")


class TokenIn(Request):
    """A new token. ``account``: for another account, which only the provider may."""

    name: str = Field(min_length=1, max_length=63)
    lifetime: int | None = Field(default=None, ge=60, le=10 * 365 * 86_400, description="seconds; null: until it is revoked")
    account: str | None = Field(default=None, max_length=63)

    @property
    def duration(self) -> timedelta | None:
        """The lifetime as a duration."""
        return None if self.lifetime is None else timedelta(seconds=self.lifetime)


class TokenMade(TokenOut):
    """A token that was made just now. Its secret is told only this once."""

    secret: str


class PlanOut(Answer):
    """Limits under a name."""

    id: str
    name: str
    description: str
    limits: Limits
    drivers: dict[str, str]
    containers: int | None = Field(default=None, description="how many use it; told to the provider only")


class PlanDrivers(Request):
    """The drivers that a plan's containers are made with; the server decides about those left out."""

    ns: Name | None = None
    net: Name | None = None
    storage: Name | None = None
    limits: Name | None = None


class PlanIn(Request):
    """A new plan."""

    name: Name
    description: str = Field(default="", max_length=200)
    limits: Limits
    drivers: PlanDrivers = PlanDrivers()


# --- images ---


class ImageOut(Answer):
    """An image. ``own`` false: the provider's, and everybody's to use."""

    id: str
    name: str
    own: bool
    state: str = Field(description="pending, ready, deleting")
    digest: str
    driver: str
    size: int = Field(description="bytes of the archive")
    unpacked_size: int
    config: ImageConfig
    created_at: datetime


class ImageBuildIn(Request):
    """An image to be made from one of the platform's recipes."""

    name: Name
    recipe: Name


class Blob(Answer):
    """An archive that the panel has taken."""

    digest: str
    size: int


# --- servers ---


class NodeOut(Answer):
    """A server. ``*_promised`` is what its containers' limits add up to."""

    name: str
    state: str = Field(description="online, offline")
    seen_at: datetime | None
    kernel: str
    architecture: str
    load: float
    cpus: float
    cpus_promised: float
    memory: int
    memory_promised: int
    disk: int
    disk_promised: int
    disk_free: int
    containers: int
    drivers: list[DriverFact]
    wire: WireFact | None = Field(default=None, description="where other servers connect to it, and the fingerprint of its certificate")


# --- containers ---


class ContainerIn(Request):
    """A new container. ``limits`` differ from the plan's; a tenant's may only be lower."""

    name: Name
    image: str = Field(min_length=1, max_length=63)
    plan: str = Field(min_length=1, max_length=63)
    args: tuple[_Text, ...] = Field(default=(), max_length=256, description="replaces the image's command")
    env: tuple[_Variable, ...] = Field(default=(), max_length=256, description="NAME=value, added to the image's")
    cwd: str = Field(default="", max_length=4096, description="empty: the image's")
    user: str = Field(default="", max_length=128, description="empty: the image's")
    limits: LimitsChange | None = None

    def process(self) -> dict[str, object]:
        """What differs from how the image wants to be run."""
        return {"args": list(self.args), "env": list(self.env), "cwd": self.cwd, "user": self.user}


class OperationRef(Answer):
    """An operation, briefly."""

    id: str
    kind: str
    state: str


class ContainerOut(Answer):
    """A container: what is wanted of it, and what was last seen."""

    id: str
    name: str
    account: str
    state: str
    wanted: str
    node: str | None
    image: str
    plan: str
    limits: Limits
    address_v4: str | None
    address_v6: str | None
    ports: list[str] = Field(description="that the image says it listens on, such as 80/tcp")
    args: list[str]
    env: list[str]
    user: str
    drivers: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    checkpoint: str | None = Field(description="id of the checkpoint that holds its memory while it is suspended")
    operation: OperationRef | None = Field(description="the one that is open on it")
    error: ErrorReport | None = Field(description="why it is in state error")


class RestartIn(Request):
    """How long the first process may take to end before it is killed."""

    grace: float = Field(default=10.0, ge=0, le=600, description="seconds")


class StopIn(RestartIn):
    """The same of a stop. ``discard_memory``: of a suspended container, whose memory is given up."""

    discard_memory: bool = False


class ExecIn(ExecSpec):
    """A command to run inside."""

    args: tuple[_Text, ...] = Field(min_length=1, max_length=1024)
    env: tuple[_Variable, ...] = Field(default=(), max_length=256)
    cwd: str = Field(default="/", max_length=4096)
    user: str = Field(default="", max_length=128)
    output_limit: int = Field(default=1 << 16, ge=0, le=OUTPUT_LIMIT, description="bytes kept of each stream")

    def spec(self) -> ExecSpec:
        """As the servers take it."""
        return ExecSpec.model_validate(self.model_dump())


class LogLine(Answer):
    """One line that the container wrote."""

    at: datetime
    stream: str
    text: str


class LogPage(Answer):
    """Lines, and the cursor after them."""

    lines: list[LogLine]
    cursor: str | None = None


class UsageOut(Usage):
    """What a container uses. Of one that does not run only the disk is known."""

    running: bool


# --- memory: checkpoints, moves ---


class ResumeIn(Request):
    """Where a suspended container comes back. ``drop_checkpoints``: what cannot follow it to another server may be removed."""

    on: Name | None = Field(default=None, description="a server; null: its own")
    drop_checkpoints: bool = False


class MigrateIn(Request):
    """Where a container moves and how it may. ``drop_checkpoints``: what cannot follow it may be removed."""

    to: Name | None = Field(default=None, description="a server; null: the best of the others")
    methods: tuple[Literal["pre_copy", "post_copy", "stop_copy"], ...] = Field(default=(), max_length=3, description="only these; empty: the best that the servers can")
    allow_restart: bool = Field(default=False, description="where its memory cannot move: stop, copy, start")
    drop_checkpoints: bool = False


class CheckpointIn(Request):
    """A new checkpoint."""

    name: Name | None = Field(default=None, description="what it is called, for people")


class RestoreIn(Request):
    """Back to one of its checkpoints."""

    checkpoint: Id


class CloneIn(Request):
    """A new container from the memory and files of a checkpoint."""

    checkpoint: Id
    name: Name


class CheckpointOut(Answer):
    """Memory and files of a container at one instant."""

    id: str
    name: str
    container: str
    container_id: str
    node: str
    kind: str = Field(description="manual; suspend: it holds the memory of a suspended container")
    state: str = Field(description="creating, ready, removing, broken")
    bytes: int = Field(description="of memory and process state")
    stored: int = Field(description="bytes on disk")
    memory: int = Field(description="bytes that the container used")
    frozen_ms: float
    snapshot: str | None = Field(description="of the volume, at the same instant; null: files are not part of it")
    writer: str
    created_at: datetime


class CheckpointInspection(Answer):
    """What a checkpoint's file says of itself, read on its server."""

    manifest: dict[str, object]


class CheckpointVerification(Answer):
    """Every byte of a checkpoint's file was read, and its digests hold."""

    intact: bool
    details: dict[str, object]


class ObstacleOut(Answer):
    """Why processes cannot be checkpointed as they are."""

    code: str
    message: str
    remedy: str = ""


class MismatchOut(Answer):
    """What a server lacks for a container. Where it does not block, it is a warning."""

    code: str = ""
    message: str
    remedy: str = ""
    blocks: bool = True
    only_memory: bool = Field(default=False, description="it keeps the memory from moving, not the files: a restart is not blocked")


class SuspendCheck(Answer):
    """What a suspend would meet, found without touching anything."""

    possible: bool
    obstacles: list[ObstacleOut]
    memory: int = Field(description="bytes that would be given back")
    frozen_ms: float | None = Field(description="about how long until its memory is on disk")


class MigrateCheck(Answer):
    """What a move would meet and be, found without touching anything."""

    possible: bool
    source: str
    target: str
    method: str | None = Field(description="pre_copy, post_copy, stop_copy, restart; files of a container that does not run; null: none")
    why: str
    obstacles: list[ObstacleOut] = Field(description="on the source")
    mismatches: list[MismatchOut] = Field(description="on the target")
    memory: int
    bytes: int = Field(description="about how much would travel")
    frozen_ms: float | None = Field(description="about how long it would stand still; null: it does not run, or would be restarted")


# --- operations, events ---


class StepOut(Answer):
    """A step of an operation."""

    name: str
    node: str
    state: str
    weight: int
    note: str
    ms: float | None
    error: ErrorReport | None


class OperationOut(Answer):
    """A request that was written down, and how far it is."""

    id: str
    kind: str
    account: str = Field(description="id of the account whose thing it is about")
    target_kind: str
    target: str
    target_id: str
    state: str = Field(description="queued, running, undoing, done, failed, cancelled, needs_attention")
    progress: float = Field(ge=0, le=1)
    steps: list[StepOut]
    request: dict[str, object] = Field(description="what was asked for, as far as the kind alone does not say it")
    result: dict[str, object]
    error: ErrorReport | None
    waits_for: str | None = Field(description="id of the operation that must end first")
    cancel_asked: bool
    node: str
    asked_by: str
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED

    @property
    def seconds(self) -> float | None:
        """From the request to the end."""
        return (self.ended_at - self.created_at).total_seconds() if self.ended_at else None


class EventOut(Answer):
    """Something that happened."""

    id: int
    at: datetime
    kind: str
    message: str
    container: str
    container_id: str | None
    operation: str | None
    node: str
    details: dict[str, object]


class AccountPage(Page[AccountOut]):
    """Accounts."""


class TokenPage(Page[TokenOut]):
    """Tokens."""


class PlanPage(Page[PlanOut]):
    """Plans."""


class ImagePage(Page[ImageOut]):
    """Images."""


class NodePage(Page[NodeOut]):
    """Servers."""


class ContainerPage(Page[ContainerOut]):
    """Containers."""


class CheckpointPage(Page[CheckpointOut]):
    """Checkpoints, the oldest first."""


class OperationPage(Page[OperationOut]):
    """Operations, the newest first."""


class EventPage(Page[EventOut]):
    """Events: the newest first, or in their order after ``since``."""
