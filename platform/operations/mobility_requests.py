"""Admission of what concerns containers' memory: suspend, resume, migrate, checkpoints, restore, clone. As :mod:`hostler.operations.requests`, in the panel's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, NotFound
from hostler.core.lifecycle import State, Wanted
from hostler.core.names import check_name, new_id
from hostler.operations.requests import Asker, add_operation, check_state, find_container
from hostler.store import checkpoints
from hostler.store.models import Checkpoint, Container, Node, Operation


def suspend(session: Session, asker: Asker, name: str) -> Operation:
    """Ask for a container's memory to go to disk."""
    container = find_container(session, asker.account, name)
    check_state(session, container, "suspend")
    container.wanted = Wanted.SUSPENDED
    return add_operation(session, asker, "suspend", container)


def resume(session: Session, asker: Asker, name: str, on: str | None = None, *, drop_checkpoints: bool = False) -> Operation:
    """Ask for a suspended container to come back, on its server or on the one named."""
    container = find_container(session, asker.account, name)
    _check_server(session, on)
    check_state(session, container, "resume")
    container.wanted = Wanted.RUNNING
    return add_operation(session, asker, "resume", container, {"on": on, "drop_checkpoints": drop_checkpoints})


def discard(session: Session, asker: Asker, name: str) -> Operation:
    """Ask for a suspended container's memory to be given up: it is stopped then."""
    container = find_container(session, asker.account, name)
    check_state(session, container, "discard")
    container.wanted = Wanted.STOPPED
    return add_operation(session, asker, "discard", container)


def migrate(
    session: Session, asker: Asker, name: str, to: str | None = None, *, methods: Sequence[str] = (), allow_restart: bool = False, drop_checkpoints: bool = False
) -> Operation:
    """Ask for a container to move, to the server named or to the best of the others; ``methods``: only these (empty: all)."""
    container = find_container(session, asker.account, name)
    _check_server(session, to)
    check_state(session, container, "migrate")
    args = {"to": to, "methods": list(methods), "allow_restart": allow_restart, "drop_checkpoints": drop_checkpoints}
    return add_operation(session, asker, "migrate", container, args)


def checkpoint(session: Session, asker: Asker, name: str, label: str = "") -> Operation:
    """Ask for a checkpoint. Its id is in the operation's request."""
    if label:
        check_name(label)
    container = find_container(session, asker.account, name)
    checkpoints.check_quota(session, container)
    check_state(session, container, "checkpoint")
    return add_operation(session, asker, "checkpoint", container, {"checkpoint": new_id(), "label": label})


def delete_checkpoint(session: Session, asker: Asker, checkpoint: str) -> Operation:
    """Ask for a checkpoint's end."""
    row = checkpoints.find_checkpoint(session, asker.account, checkpoint)
    check_state(session, row.container, "checkpoint.delete")
    return add_operation(session, asker, "checkpoint.delete", row.container, {"checkpoint": row.id})


def restore(session: Session, asker: Asker, name: str, checkpoint: str) -> Operation:
    """Ask for a container to go back to one of its checkpoints."""
    container = find_container(session, asker.account, name)
    _own(session, asker, container, checkpoint)
    check_state(session, container, "restore")
    container.wanted = Wanted.RUNNING
    return add_operation(session, asker, "restore", container, {"checkpoint": checkpoint})


def clone(session: Session, asker: Asker, name: str, checkpoint: str, new: str) -> Operation:
    """Ask for a new container of another's checkpoint, in the same account."""
    source = find_container(session, asker.account, name)
    row = _own(session, asker, source, checkpoint)
    check_name(new)
    if session.scalar(select(Container.id).where(Container.account_id == source.account_id, Container.name == new)):
        raise Conflict(f"a container {new} exists already", hint="choose another name, or delete it first", code="name_taken")
    if row.state != "ready":
        raise Conflict(f"checkpoint {checkpoint} is {row.state}", hint="hostler checkpoint ls shows what there is", code="wrong_state")
    container = Container(
        account_id=source.account_id, name=new, plan_id=source.plan_id, image_id=source.image_id, wanted=Wanted.RUNNING, state=State.PROVISIONING,
        limits=source.limits, process=source.process, drivers=source.drivers,
    )  # fmt: skip
    session.add(container)
    session.flush()
    return add_operation(session, asker, "clone", container, {"checkpoint": checkpoint, "source": source.name})


def _own(session: Session, asker: Asker, container: Container, checkpoint: str) -> Checkpoint:
    row = checkpoints.find_checkpoint(session, asker.account, checkpoint)
    if row.container_id != container.id:
        raise NotFound(f"{container.name} has no checkpoint {checkpoint}", hint=f"hostler checkpoint ls {container.name} shows what there is")
    return row


def _check_server(session: Session, name: str | None) -> None:
    if name is not None and session.scalar(select(Node.id).where(Node.name == name)) is None:
        raise NotFound(f"there is no server {name}", hint="leave it out to have one chosen", code="unknown_node")
