"""Servers' rows as placement sees them."""

from __future__ import annotations

from hostler.placement.choose import Candidate
from hostler.store.models import Node


def candidate(node: Node) -> Candidate:
    """A server's row as placement sees it."""
    usable = frozenset(f"{fact['group']}:{fact['name']}" for fact in node.facts.get("drivers", []) if fact["usable"])
    return Candidate(
        name=node.name,
        online=node.state == "online",
        cpus=node.cpus,
        memory=node.memory,
        disk=node.disk,
        cpus_promised=node.cpus_promised,
        memory_promised=node.memory_promised,
        disk_promised=node.disk_promised,
        drivers=usable,
    )
