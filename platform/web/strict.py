"""JSON as strictly as its standard has it (RFC 8259, RFC 7493): what no store can hold is refused at the door.

Python's own reader takes NaN, lone surrogates and endless nesting; PostgreSQL takes neither the first two nor NUL in text.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from flask.json.provider import DefaultJSONProvider

#: Levels of nesting; the deepest of our requests has four.
DEPTH = 32


def reads_as_text(value: str) -> bool:
    """Whether a string can be kept: no NUL, no lone surrogate."""
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _check(value: Any, depth: int = 0) -> None:
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        if not reads_as_text(value):
            raise ValueError("holds characters that are not text")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, depth + 1)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


class StrictJson(DefaultJSONProvider):
    """Reads requests' bodies. An empty body is an empty object, for requests that need to say nothing."""

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Parse. Raises ValueError for all that is not strict JSON."""
        if not s.strip():
            return {}
        try:
            value = json.loads(s, parse_constant=_refuse, **kwargs)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        _check(value)
        return value
