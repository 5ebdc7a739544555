"""How a running container's memory travels: chosen by what both servers can, how much there is, and what is allowed. Pure.

* *pre_copy*: while it runs, memory is copied in rounds, each of what changed since the one before; the freeze copies the rest. Nothing of
  the container depends on the source once it runs at its new place. Needs a kernel that tracks what changes.
* *post_copy*: the freeze copies all but the memory; the container runs at its new place and its memory follows. The shortest freeze for
  much memory, but until it is there the container has it on two servers: if one dies, or the wire is cut for good, it is lost
  (its files are not).
* *stop_copy*: all is copied in the freeze.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from hostler.core.units import MIB, format_size

#: Less memory than this is copied in the freeze: that takes less time than the other ways' own effort.
SMALL = 64 * MIB


class Method(StrEnum):
    """How."""

    PRE_COPY = "pre_copy"
    POST_COPY = "post_copy"
    STOP_COPY = "stop_copy"


@dataclass(frozen=True)
class Choice:
    """A method, and why it and none before it."""

    method: Method
    why: str


def choose(memory: int, allowed: Collection[str], source: Collection[str], target: Collection[str]) -> Choice | None:
    """The best of what is ``allowed`` for ``memory`` bytes; ``source`` and ``target``: methods that the servers can. None: nothing is.

    A single method that is allowed was asked for by name: it is taken whatever the memory's size, if both servers can.
    """
    asked = len(set(allowed)) == 1
    able = [method for method in Method if method in allowed and _can(method, source, target)]
    if not able:
        return None
    if asked:
        return Choice(able[0], "it was asked for")
    if memory < SMALL and Method.STOP_COPY in able:
        return Choice(Method.STOP_COPY, f"{format_size(memory)} of memory is copied in the freeze as fast as before or after it")
    missing = [f"{method.value}: {_why_not(method, allowed, source, target)}" for method in Method if method not in able and method is not Method.STOP_COPY]
    reason = f"{format_size(memory)} of memory"
    return Choice(able[0], f"{reason}; not {'; not '.join(missing)}" if missing else reason)


def _can(method: Method, source: Collection[str], target: Collection[str]) -> bool:
    if method is Method.PRE_COPY:
        return method in source
    return method is Method.STOP_COPY or (method in source and method in target)


def _why_not(method: Method, allowed: Collection[str], source: Collection[str], target: Collection[str]) -> str:
    if method not in allowed:
        return "it is not allowed"
    who = "this server" if method not in source else "the other server"
    return f"{who} cannot (hostler plugins tells why)"
