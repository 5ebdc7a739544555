"""What travels inside TLS: frames of one byte of kind, four of length (network order), and a body. Pure.

| kind | body |
|---|---|
| message | JSON: ``{"kind": …, "fields": {…}}``, at most 1 MiB |
| data | bytes of a stream or of the file announced last, at most 1 MiB |
| end | bytes and files of the whole stream or folder: two 64-bit numbers. Without it, it was cut |
| file | a file's size, 64 bits, and its name: ``size`` bytes of data follow |
| failed | JSON of an :class:`~hostler.core.errors.ErrorReport`: the sender gives up, and why |

TLS proves each byte and their order; what it does not prove is that nothing is missing at the end, which the end frame does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from hostler.core.errors import ErrorReport, Invalid
from hostler.node.wire.failures import nonsense

_M = TypeVar("_M", bound=BaseModel)

MESSAGE_LIMIT = 1 << 20
#: Bytes of one data frame at most, and of the buffers that fill and empty it.
CHUNK = 1 << 20
_FAILED_LIMIT = 64 << 10
_NAME_LIMIT = 255  # NAME_MAX of linux/limits.h
HEADER = struct.Struct("!BI")
_END = struct.Struct("!QQ")
_FILE = struct.Struct("!Q")


class Kind(IntEnum):
    """Kinds of frames."""

    MESSAGE = 1
    DATA = 2
    END = 3
    FILE = 4
    FAILED = 5


_LIMITS = {
    Kind.MESSAGE: MESSAGE_LIMIT,
    Kind.DATA: CHUNK,
    Kind.END: _END.size,
    Kind.FILE: _FILE.size + _NAME_LIMIT,
    Kind.FAILED: _FAILED_LIMIT,
}


@dataclass(frozen=True)
class Message:
    """A control message."""

    kind: str
    fields: dict[str, Any]

    def parse(self, model: type[_M]) -> _M:
        """The fields as ``model``. Raises ``wire_protocol`` when they are not."""
        try:
            return model.model_validate(self.fields)
        except ValidationError as error:
            raise nonsense(f"message {self.kind} is malformed: {error.error_count()} of its fields are wrong") from error


@dataclass(frozen=True)
class Moved:
    """What a stream or folder came to."""

    bytes: int
    files: int = 0


def header(kind: Kind, length: int) -> bytes:
    """A frame's first five bytes."""
    return HEADER.pack(kind, length)


def parse_header(data: bytes, limit: int = CHUNK) -> tuple[Kind, int]:
    """Kind and length of the body that follows. Raises ``wire_protocol`` for what no version of ours says, before it is read."""
    number, length = HEADER.unpack(data)
    if number not in _LIMITS:
        raise nonsense(f"a frame of kind {number}")
    kind = Kind(number)
    allowed = min(_LIMITS[kind], limit)
    if length > allowed:
        raise nonsense(f"a frame of {length} bytes where {allowed} are allowed")
    return kind, length


def message(kind: str, body: BaseModel | None, fields: dict[str, Any]) -> bytes:
    """A message's frame. Raises :class:`Invalid` for one that is too large or cannot be JSON."""
    try:
        content = (body.model_dump(mode="json") if body is not None else {}) | fields
        text = to_json({"kind": kind, "fields": content})
    except (PydanticSerializationError, ValueError) as error:
        raise Invalid(f"message {kind} cannot be written as JSON: {error}", hint="give plain values and models") from error
    if len(text) > MESSAGE_LIMIT:
        raise Invalid(f"message {kind} has {len(text)} bytes, and {MESSAGE_LIMIT} are allowed", hint="send it as a stream")
    return header(Kind.MESSAGE, len(text)) + text


def parse_message(body: bytes) -> Message:
    """A message from its frame's body. Raises ``wire_protocol``."""
    try:
        said = from_json(body)
    except ValueError as error:
        raise nonsense("a message that is no JSON") from error
    if not (isinstance(said, dict) and isinstance(said.get("kind"), str) and isinstance(said.get("fields"), dict)):
        raise nonsense("a message without kind and fields")
    return Message(said["kind"], said["fields"])


def end(moved: Moved) -> bytes:
    """The frame that ends a stream or folder."""
    return header(Kind.END, _END.size) + _END.pack(moved.bytes, moved.files)


def check_end(body: bytes, moved: Moved) -> None:
    """Raise ``wire_protocol`` unless what came is what was sent."""
    if len(body) != _END.size or _END.unpack(body) != (moved.bytes, moved.files):
        raise nonsense(f"an end that does not match the {moved.bytes} bytes and {moved.files} files that came")


def failed(error: BaseException) -> bytes:
    """The frame that tells the other side why nothing more comes. A bug's traceback stays here."""
    report = ErrorReport.of(error)
    text = report.model_copy(update={"traceback": None, "message": report.message[:8000], "hint": report.hint[:8000]}).model_dump_json().encode()
    return header(Kind.FAILED, len(text)) + text


def parse_failed(body: bytes) -> Exception:
    """The other side's error, to be raised here."""
    try:
        return ErrorReport.model_validate_json(body).raised()
    except ValidationError:
        return nonsense("a failure that cannot be read")


def file(name: str, size: int) -> bytes:
    """The frame that announces a file. Raises :class:`Invalid` for a name that :func:`parse_file` would refuse."""
    if not _is_plain(name):
        raise Invalid(f"{name[:80]!r} is no plain file name", hint="only files with plain names in UTF-8 can be sent")
    encoded = name.encode()
    return header(Kind.FILE, _FILE.size + len(encoded)) + _FILE.pack(size) + encoded


def parse_file(body: bytes) -> tuple[str, int]:
    """A file's name and size in bytes. Raises ``wire_protocol`` for a name that could lead anywhere but into the folder itself."""
    try:
        (size,), name = _FILE.unpack_from(body), body[_FILE.size :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise nonsense("a file whose name cannot be read") from error
    if not _is_plain(name):
        raise nonsense(f"a file called {name[:80]!r}")
    return name, size


def _is_plain(name: str) -> bool:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8, as os.fsdecode gives them
        return False
    return 0 < len(encoded) <= _NAME_LIMIT and name not in (".", "..") and "/" not in name and "\0" not in name
