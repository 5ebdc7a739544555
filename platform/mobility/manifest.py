"""What a checkpoint says of itself before its first part: pure values, checked whatever their source."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from hostler.core.errors import Invalid
from hostler.core.names import Id
from hostler.core.specs import ContainerSpec, Process, Spec

#: Largest manifest that is written or read, in bytes of JSON.
MANIFEST_LIMIT: Final = 2 << 20
#: CRIU writes five to seven files a process: enough for a container of two thousand.
PARTS_LIMIT: Final = 16_384
#: Bytes of a part that are filtered at once: fits a core's second-level cache, where filters run fastest.
CHUNK: Final = 256 << 10
#: The first part of an encrypted checkpoint.
SEALED_NAME: Final = "container.json"

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

#: Text that may reach a terminal or a log as it is.
Line = Annotated[str, StringConstraints(max_length=256, pattern=r"^[ -~]*$")]
_Word = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+:-]*$")]
#: A feature of a processor as ``/proc/cpuinfo`` names it, such as ``avx512f``.
Feature = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


def check_part_name(name: str) -> str:
    """A file name, or a folder's and a file's. Raises :class:`Invalid` for all that could lead elsewhere."""
    components = name.split("/")
    if len(components) > 2 or not all(_COMPONENT.fullmatch(component) for component in components):
        raise Invalid(
            f"{name[:80]!r} cannot be the name of a part",
            hint="one or two components of letters, digits, dot, underscore and hyphen, each beginning with a letter, digit or underscore",
        )
    return name


class PartKind(StrEnum):
    """What a part is, for people and for those who want one kind only."""

    MEMORY = "memory"
    """Pages: a checkpoint driver's big files."""
    STATE = "state"
    """The checkpoint driver's other files."""
    VOLUME = "volume"
    """A volume's send stream."""
    LOG = "log"
    """The last lines of the container's log."""
    CONTAINER = "container"
    """The container's spec, of encrypted checkpoints; the stream's own, never a caller's."""


class PartInfo(Spec):
    """One part as the manifest lists it. ``size`` is in bytes, none where only the end of the part tells."""

    name: str = Field(max_length=257)
    kind: PartKind
    size: int | None = Field(default=None, ge=0, lt=1 << 60)

    @field_validator("name")
    @classmethod
    def _leads_nowhere(cls, value: str) -> str:
        try:
            return check_part_name(value)
        except Invalid as error:
            raise ValueError(f"{error.message}; {error.hint}") from error


class Cipher(StrEnum):
    """Both authenticate what they encrypt; keys of 256 bits, nonces of 96, tags of 128."""

    AES_256_GCM = "aes-256-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"


class Encryption(Spec):
    """How the parts are encrypted. ``key_id`` names the key and tells nothing of it."""

    cipher: Cipher
    key_id: str = Field(pattern=r"^[0-9a-f]{16}$")
    salt: str = Field(pattern=r"^[0-9a-f]{64}$", description="random, of this file alone: no two files share a file key")


class Filters(Spec):
    """What parts go through on their way to the file: zstd first, then encryption, each chunk by itself."""

    level: int = Field(default=1, ge=-100, le=22, description="zstd's level; 0 for no compression")
    chunk: int = Field(default=CHUNK, ge=4096, le=1 << 20, description="bytes of the original filtered at once")
    encryption: Encryption | None = None


class Manifest(Spec):
    """A checkpoint, described whole. ``parts``, ``filters`` and ``sealed`` are the writer's to fill in."""

    format: Literal[1] = 1
    id: Id
    container: ContainerSpec
    created_at: AwareDatetime
    node: Line
    kernel: Line = Field(description="release, such as 6.1.0-18-amd64")
    architecture: _Word = Field(description="as uname -m has it")
    cpu_features: tuple[Feature, ...] = Field(default=(), max_length=2048)
    driver: _Word = Field(description="checkpoint driver, such as criu")
    driver_version: Line = Field(description="of the program behind the driver, such as 4.1")
    parent: Id | None = Field(default=None, description="checkpoint whose memory this one continues")
    volume_snapshot: Line | None = Field(default=None, description="snapshot of the volume of the same instant")
    storage: _Word = Field(description="storage driver that has the snapshot")
    keeps_running: bool = Field(default=False, description="the container went on after the checkpoint")
    details: dict[str, JsonValue] = {}
    parts: tuple[PartInfo, ...] = Field(default=(), max_length=PARTS_LIMIT)
    filters: Filters = Filters()
    sealed: bool = Field(default=False, description="the process is not told here: it is in the first part, encrypted")

    @model_validator(mode="after")
    def _parts_are_files_of_one_folder(self) -> Self:
        names = {part.name for part in self.parts}
        if len(names) != len(self.parts):
            raise ValueError("two parts have one name")
        if both := names & {name.split("/")[0] for name in names if "/" in name}:
            raise ValueError(f"{min(both)!r} is a part and the folder of a part")
        return self

    @model_validator(mode="after")
    def _sealed_has_its_part(self) -> Self:
        own = [index for index, part in enumerate(self.parts) if part.kind is PartKind.CONTAINER]
        if own != ([0] if self.sealed else []) or (self.sealed and self.filters.encryption is None):
            raise ValueError("a sealed checkpoint, and no other, begins with its container's spec, encrypted")
        return self

    @property
    def size(self) -> int:
        """Bytes of all parts whose sizes are known beforehand."""
        return sum(part.size or 0 for part in self.parts)


def public(container: ContainerSpec, *, sealed: bool) -> ContainerSpec:
    """The spec as a manifest tells it: never the ticket in the image's address, and of a sealed one not the process,
    whose environment and arguments are where people put passwords."""
    told: dict[str, object] = {"image": container.image.model_copy(update={"url": ""})}
    return container.model_copy(update={**told, "process": Process()} if sealed else told)


def encode(manifest: Manifest) -> bytes:
    """The manifest's JSON. Raises :class:`Invalid` if it is too long or holds text that JSON cannot."""
    try:
        text = manifest.model_dump_json().encode()
    except (ValueError, RecursionError) as error:  # lone surrogates, endless details
        raise Invalid(f"the checkpoint's manifest cannot be written down: {error}", hint="give plain text in its details") from error
    if len(text) > MANIFEST_LIMIT:
        raise Invalid(
            f"the checkpoint's manifest would have {len(text)} bytes, and may have {MANIFEST_LIMIT}",
            hint="give fewer details, or pack small files into one part",
        )
    return text


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line, without the value, which may be a secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(step) for step in first["loc"])[:120]
    return f"{where}: {first['msg'][:300]}" if where else first["msg"][:300]


def decode(text: bytes) -> Manifest:
    """The manifest of such JSON. Raises :class:`Invalid` with the first thing that is wrong."""
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise Invalid(
            f"the checkpoint's manifest is not one: {first_problem(error)}",
            hint="it was written by another version of Hostler, or by no Hostler: export it again from the server that made it",
        ) from error
