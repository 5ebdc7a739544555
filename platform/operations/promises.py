"""What servers promise for containers that are suspended and come back: disk always, processors and memory only to those in memory."""

from __future__ import annotations

from sqlalchemy.orm import Session

from hostler.core.errors import NoRoom
from hostler.core.limits import Limits
from hostler.operations.candidates import candidate
from hostler.placement.choose import Overcommit, refusal
from hostler.store import nodes
from hostler.store.models import Container, Node


def whole(container: Container) -> Limits:
    """All that the container may use."""
    return Limits.model_validate(container.limits)


def resting(container: Container) -> Limits:
    """What a suspended one still takes."""
    return Limits(disk=whole(container).disk)


def working(container: Container) -> Limits:
    """What a suspended one has given back."""
    limits = whole(container)
    return Limits(cpu=limits.cpu, memory=limits.memory)


def held(container: Container) -> Limits:
    """What its server promises for it now."""
    return resting(container) if container.checkpoint_id is not None else whole(container)


def take(session: Session, node: Node, limits: Limits, ratio: Overcommit) -> None:
    """Promise ``limits`` on a server, whose row must be locked. Raises :class:`NoRoom` in words."""
    no = refusal(candidate(node), limits, ratio)
    if no is not None:
        raise NoRoom(f"server {node.name} {no}", hint="choose another server: --on NAME, --to NAME; or make room on this one", code="no_room")
    nodes.promise(session, node.id, limits)


def give_back(session: Session, node_id: str, limits: Limits) -> None:
    """Take a promise back."""
    nodes.promise(session, node_id, limits, sign=-1)
