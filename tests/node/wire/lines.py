"""Faults of the line between two servers: packets of the wire that a server does not get any more, in one direction or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostler.host import netns, nftables
from hostler.node.wire.address import PORT

_TABLE = "inet wirecut"


def cut(where: Path, port: int = PORT) -> None:
    """From now on no packet of a wire at ``port``, of whichever side, arrives in namespace ``where``; what leaves it passes."""
    rules = " ".join(f"add rule {_TABLE} drops tcp {side} {port} drop;" for side in ("sport", "dport"))
    with netns.entered(where), nftables.opened() as here:
        here.run(f"add table {_TABLE}; add chain {_TABLE} drops {{ type filter hook input priority -400; }}; {rules}")


def heal(where: Path) -> None:
    """Packets arrive again. None that was cut is a success."""
    with netns.entered(where), nftables.opened() as here:
        here.run(f"add table {_TABLE}; delete table {_TABLE}")


@contextmanager
def deaf(*servers: Path, port: int = PORT) -> Iterator[None]:
    """None of these namespaces gets anything of the wire during the block."""
    try:
        for where in servers:
            cut(where, port)
        yield
    finally:
        for where in servers:
            heal(where)
