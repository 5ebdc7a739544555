"""Names: what people may call things, and how names on a host are made from them.

Every name that Hostler makes on a host (link, cgroup, namespace, chain, folder) holds the installation's id,
so that two installations on one machine never meet. Interface names are at most 15 bytes (IFNAMSIZ).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated

from pydantic import AfterValidator, Field

from hostler.core.errors import Invalid

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def check_name(name: str) -> str:
    """A DNS label (RFC 1123): it becomes a host name. Raises :class:`Invalid`."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name[:80]!r} is not a usable name",
            hint="use 1 to 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit",
        )
    return name


def _name_value(name: str) -> str:
    try:
        return check_name(name)
    except Invalid as error:
        raise ValueError(f"{error.message}; {error.hint}") from error


Name = Annotated[str, AfterValidator(_name_value)]
#: An id made by :func:`new_id`: safe in paths, interface names and chains.
Id = Annotated[str, Field(pattern=r"^[0-9a-hjkmnp-tv-z]{4,26}$")]


def check_id(thing: str) -> str:
    """An id that is about to become part of a path, rule or command on a host. Raises :class:`Invalid`.

    Ids come checked from the platform; a driver that asks again cannot be led elsewhere by anybody.
    """
    if not _NAME.fullmatch(thing):
        raise Invalid(f"{thing[:80]!r} cannot be an id", hint="ids are 1 to 63 lower-case letters, digits and hyphens")
    return thing


def new_id(length: int = 10) -> str:
    """A random id of ``length`` characters, 5 bits each."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(length))


def short_hash(text: str, length: int = 6) -> str:
    """A stable id of ``text``, for where the whole does not fit."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    letters = []
    for _ in range(length):
        number, digit = divmod(number, 32)
        letters.append(_ID_ALPHABET[digit])
    return "".join(letters)


def link_name(kind: str, installation: str, thing: str) -> str:
    """Interface name of at most 15 bytes: ``kind`` (1 or 2 letters), 4 of the installation, 8 of the thing."""
    return f"{kind}{short_hash(installation, 4)}{short_hash(thing, 8)}"
