"""The wire format of protocol buffers, as far as CRIU's images need it: messages taken apart into fields, and put together again.

https://protobuf.dev/programming-guides/encoding. What is not touched is put back byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
#: Bytes of a varint of 64 bits.
_LONGEST = 10


class Malformed(ValueError):
    """Bytes that are no such message."""


@dataclass(frozen=True)
class Field:
    """A field of a message: a number, or the bytes of a text, of another message, or of a fixed-size number."""

    number: int
    wire: int
    value: int | bytes

    @property
    def message(self) -> bytes:
        """The bytes of a field that has some. Raises :class:`Malformed` for a number."""
        if isinstance(self.value, int) or self.wire != _BYTES:
            raise Malformed(f"field {self.number} is no message")
        return self.value

    @property
    def integer(self) -> int:
        """The number of a field that is one. Raises :class:`Malformed` for others."""
        if not isinstance(self.value, int):
            raise Malformed(f"field {self.number} is no number")
        return self.value


def number(at: int, value: int) -> Field:
    """A field that holds a number."""
    return Field(at, _VARINT, value)


def text(at: int, value: bytes) -> Field:
    """A field that holds bytes."""
    return Field(at, _BYTES, value)


def parse(message: bytes) -> list[Field]:
    """The fields of a message, in their order. Raises :class:`Malformed`."""
    found, at = [], 0
    while at < len(message):
        key, at = _read(message, at)
        wire, value = key & 7, b""
        if wire == _VARINT:
            plain, at = _read(message, at)
            found.append(Field(key >> 3, wire, plain))
            continue
        if wire == _BYTES:
            length, at = _read(message, at)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise Malformed(f"wire type {wire}")
        value, at = message[at : at + length], at + length
        if at > len(message):
            raise Malformed("it ends inside a field")
        found.append(Field(key >> 3, wire, value))
    return found


def encode(fields: Iterable[Field]) -> bytes:
    """The message of such fields."""
    whole = bytearray()
    for field in fields:
        whole += _written(field.number << 3 | field.wire)
        if isinstance(field.value, int):
            whole += _written(field.value)
        else:
            whole += _written(len(field.value)) if field.wire == _BYTES else b""
            whole += field.value
    return bytes(whole)


def _read(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_LONGEST):
        if at + index >= len(message):
            break
        byte = message[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise Malformed("it ends inside a number, or the number has no end")


def _written(value: int) -> bytes:
    whole = bytearray()
    while value > 127:
        whole.append(value & 127 | 128)
        value >>= 7
    whole.append(value)
    return bytes(whole)
