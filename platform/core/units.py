"""Sizes, rates, CPU counts and durations as people write them, and back.

Binary suffixes (K, M, G, T: 1024) for bytes, decimal ones (k, M, G: 1000) for bit rates, as is customary.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hostler.core.errors import Invalid

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:i?B)?\s*", re.IGNORECASE)
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMG]?)(?:bit(?:/s)?|bps)?\s*", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_LARGEST = 2**60
_FASTEST = 10**13


def parse_size(text: str | int) -> int:
    """Bytes of ``512M``, ``1.5G``, ``10GiB``, ``4096``. Raises :class:`Invalid`."""
    if isinstance(text, int) and not isinstance(text, bool):
        if 0 <= text <= _LARGEST:
            return text
        raise Invalid(f"{text} is not a size in bytes", hint="give 0 or more, below 1 EiB")
    match = _SIZE.fullmatch(str(text))
    if not match:
        raise Invalid(f"{str(text)[:40]!r} is not a size", hint="write bytes with a suffix, such as 512M or 10G")
    size = float(match[1]) * 1024 ** _POWER[match[2].upper()]  # infinite for hundreds of digits
    if size > _LARGEST:
        raise Invalid(f"{str(text)[:40]!r} is too large", hint="give less than 1 EiB")
    return int(size)


def parse_rate(text: str | int) -> int:
    """Bits per second of ``100Mbit``, ``1G``, ``64k``. Raises :class:`Invalid`."""
    if isinstance(text, int) and not isinstance(text, bool):
        if 0 <= text <= _FASTEST:
            return text
        raise Invalid(f"{text} is not a rate in bit/s")
    match = _RATE.fullmatch(str(text))
    if not match:
        raise Invalid(f"{str(text)[:40]!r} is not a rate", hint="write bits per second with a suffix, such as 100Mbit or 1G")
    rate = float(match[1]) * 1000 ** _POWER[match[2].upper()]
    if rate > _FASTEST:
        raise Invalid(f"{str(text)[:40]!r} is too fast", hint="give at most 10000G")
    return int(rate)


def format_size(size: int) -> str:
    """``512M``, ``1.5G``; exact powers print without a fraction."""
    value = float(size)
    for suffix in ("", "K", "M", "G", "T"):
        if value < 1024 or suffix == "T":
            return f"{value:.0f}{suffix}" if value == int(value) else f"{value:.1f}{suffix}"
        value /= 1024
    raise AssertionError("unreachable")


def format_rate(rate: int) -> str:
    """``100Mbit``, ``1.5Gbit``."""
    value = float(rate)
    for suffix in ("bit", "kbit", "Mbit", "Gbit"):
        if value < 1000 or suffix == "Gbit":
            return f"{value:g}{suffix}"
        value /= 1000
    raise AssertionError("unreachable")


def _validated(parse: Any) -> Any:
    def convert(value: Any) -> Any:
        try:
            return parse(value)
        except Invalid as error:
            raise ValueError(f"{error.message}; {error.hint}" if error.hint else error.message) from error

    return convert


Size = Annotated[int, Field(ge=0), BeforeValidator(_validated(parse_size), json_schema_input_type=int | str), Field(description="bytes; 512M style text is accepted")]
Rate = Annotated[int, Field(ge=0), BeforeValidator(_validated(parse_rate), json_schema_input_type=int | str), Field(description="bit/s; 100Mbit style text is accepted")]
