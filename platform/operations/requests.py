"""Admission: from a valid request to a row that says it was asked. Runs in the panel, inside its transaction.

Everything here talks to the store only and changes nothing but adding the operation (and, for a new thing, its row), so that
a refusal leaves no trace. The caller sends the operation's id to the control worker after the commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from hostler.core.errors import Conflict, Invalid, NotFound
from hostler.core.lifecycle import State, Wanted, check_allowed
from hostler.core.limits import Limits, LimitsChange
from hostler.core.names import check_name
from hostler.core.specs import ExecSpec
from hostler.store.models import Account, Container, Image, Operation, Plan

#: Operations that may stand in line for one container before more are refused.
QUEUE_LIMIT = 16


@dataclass(frozen=True)
class Asker:
    """Who asks: the account whose things are concerned, and the reason trail's first entry."""

    account: Account
    by: str
    reason: str = ""


def find_container(session: Session, account: Account, name: str) -> Container:
    """The account's container of that name or id; the provider finds everybody's by id. Raises :class:`NotFound`."""
    query = select(Container).options(joinedload(Container.node), joinedload(Container.plan), joinedload(Container.image), joinedload(Container.address))
    own = query.where(Container.account_id == account.id, (Container.name == name) | (Container.id == name))
    container = session.scalar(own)
    if container is None and account.provider:
        container = session.scalar(query.where(Container.id == name))
    if container is None:
        raise NotFound(f"there is no container {name}", hint="hostler list shows yours")
    return container


def find_plan(session: Session, name: str) -> Plan:
    """By name. Raises :class:`NotFound` listing what there is."""
    plan = session.scalar(select(Plan).where(Plan.name == name))
    if plan is None:
        names = ", ".join(session.scalars(select(Plan.name).order_by(Plan.name)))
        raise NotFound(f"there is no plan {name}", hint=f"choose one of: {names or 'none exist yet'}", code="unknown_plan")
    return plan


def find_image(session: Session, account: Account, name: str) -> Image:
    """The account's own image of that name, else the provider's. Raises :class:`NotFound` listing what there is."""
    visible = (Image.account_id == account.id) | Image.account_id.is_(None)
    image = session.scalar(select(Image).where(visible, Image.name == name).order_by(Image.account_id.is_(None)))
    if image is None:
        names = ", ".join(session.scalars(select(Image.name).where(visible).order_by(Image.name).limit(20)))
        raise NotFound(
            f"there is no image {name}", hint=f"choose one of: {names}" if names else "make one: hostler image build busybox", code="unknown_image"
        )
    return image


def create(session: Session, asker: Asker, name: str, image: str, plan: str, process: dict[str, Any], change: LimitsChange | None = None) -> Operation:
    """Ask for a container. ``process`` may hold args, env, cwd, user; ``change`` differs from the plan's limits."""
    check_name(name)
    chosen_plan, chosen_image = find_plan(session, plan), find_image(session, asker.account, image)
    if session.scalar(select(Container.id).where(Container.account_id == asker.account.id, Container.name == name)):
        raise Conflict(f"a container {name} exists already", hint="choose another name, or delete it first", code="name_taken")
    limits = Limits.model_validate(chosen_plan.limits)
    if change is not None:
        limits = _changed(limits, change)
    container = Container(
        account_id=asker.account.id,
        name=name,
        plan_id=chosen_plan.id,
        image_id=chosen_image.id,
        wanted=Wanted.RUNNING,
        state=State.PROVISIONING,
        limits=limits.model_dump(mode="json"),
        process=process,
        drivers=chosen_plan.drivers,
    )
    session.add(container)
    session.flush()
    return add_operation(session, asker, "provision", container)


def power(session: Session, asker: Asker, name: str, kind: str, args: dict[str, Any]) -> Operation:
    """Ask for start, stop or restart."""
    container = find_container(session, asker.account, name)
    check_state(session, container, kind)
    container.wanted = Wanted.STOPPED if kind == "stop" else Wanted.RUNNING
    return add_operation(session, asker, kind, container, args)


def resize(session: Session, asker: Asker, name: str, change: LimitsChange) -> Operation:
    """Ask for other limits."""
    container = find_container(session, asker.account, name)
    if not change.model_fields_set:
        raise Invalid("the resize changes nothing", hint="give at least one limit, such as memory or cpu")
    _changed(Limits.model_validate(container.limits), change)
    check_state(session, container, "resize")
    return add_operation(session, asker, "resize", container, {"change": change.model_dump(mode="json", exclude_unset=True)})


def delete(session: Session, asker: Asker, name: str) -> Operation:
    """Ask for the end of a container. One that is on its way out already gives that operation again."""
    container = find_container(session, asker.account, name)
    going = session.scalar(
        select(Operation).where(Operation.target_id == container.id, Operation.kind == "delete", Operation.state.in_(("queued", "running", "undoing")))
    )
    if going is not None:
        return going
    container.wanted = Wanted.ABSENT
    return add_operation(session, asker, "delete", container)


def execute(session: Session, asker: Asker, name: str, command: ExecSpec) -> Operation:
    """Ask for a command inside a running container."""
    container = find_container(session, asker.account, name)
    check_allowed("exec", State(container.state), container.name)
    return add_operation(session, asker, "exec", container, {"command": command.model_dump(mode="json")}, exclusive=False)


def import_image(session: Session, asker: Asker, name: str, digest: str, size: int) -> Operation:
    """Ask for an image of an archive that was uploaded."""
    image = _new_image(session, asker, name)
    image.digest, image.size = digest, size
    session.flush()
    return add_operation(session, asker, "image.import", image)


def build_image(session: Session, asker: Asker, name: str, recipe: str) -> Operation:
    """Ask for an image made from a recipe. Only the provider may: it runs package tools on a server."""
    image = _new_image(session, asker, name)
    session.flush()
    return add_operation(session, asker, "image.build", image, {"recipe": recipe})


def delete_image(session: Session, asker: Asker, name: str) -> Operation:
    """Ask for the end of an image that no container uses."""
    image = find_image(session, asker.account, name)
    if image.account_id is None and not asker.account.provider:
        raise NotFound(f"you have no image {name}", hint="the provider's images cannot be deleted by tenants")
    users = session.scalars(select(Container.name).where(Container.image_id == image.id).limit(5)).all()
    if users:
        raise Conflict(f"image {name} is used by {', '.join(users)}", hint="delete those containers first", code="in_use")
    if image.state != "ready":
        raise Conflict(f"image {name} is {image.state}", hint="wait until its operation has ended", code="wrong_state")
    image.state = "deleting"
    return add_operation(session, asker, "image.delete", image)


def cancel(session: Session, operation: Operation) -> None:
    """Ask an open operation to stop; it is seen between steps. One that has ended: :class:`Conflict`."""
    if operation.state not in ("queued", "running"):
        raise Conflict(f"operation {operation.id} is {operation.state}", hint="only a queued or running one can be cancelled", code="wrong_state")
    operation.cancel_asked = True


def check_image_name(session: Session, account: Account, name: str) -> str | None:
    """Whether the account may call a new image so; the owner that the image will have (None: the provider's, everybody's to use)."""
    check_name(name)
    owner = None if account.provider else account.id
    same_owner = Image.account_id.is_(None) if owner is None else Image.account_id == owner
    if session.scalar(select(Image.id).where(Image.name == name, same_owner)):
        raise Conflict(f"an image {name} exists already", hint="choose another name, or delete it first", code="name_taken")
    return owner


def _new_image(session: Session, asker: Asker, name: str) -> Image:
    image = Image(name=name, account_id=check_image_name(session, asker.account, name))
    session.add(image)
    return image


def _changed(limits: Limits, change: LimitsChange) -> Limits:
    try:
        return limits.changed(change)
    except ValueError as error:
        raise Invalid(f"these limits do not go together: {error}", hint="see the container's present limits: hostler show") from error


def check_state(session: Session, container: Container, kind: str) -> None:
    """The state decides now only when nothing is under way; else it decides when the operation's turn comes."""
    waiting = session.scalars(
        select(Operation.id)
        .where(Operation.target_id == container.id, Operation.exclusive.is_(True), Operation.state.in_(("queued", "running", "undoing")))
        .limit(QUEUE_LIMIT)
    ).all()
    if not waiting:
        check_allowed(kind, State(container.state), container.name)
    elif len(waiting) >= QUEUE_LIMIT:
        raise Conflict(f"{len(waiting)} operations wait for container {container.name}", hint="wait for them, or cancel some", code="queue_full")


def add_operation(
    session: Session, asker: Asker, kind: str, target: Container | Image, args: dict[str, Any] | None = None, *, exclusive: bool = True
) -> Operation:
    """A new operation's row. The caller has checked that it may be asked for."""
    op = Operation(
        kind=kind,
        account_id=target.account_id or asker.account.id,
        target_kind="container" if isinstance(target, Container) else "image",
        target_id=target.id,
        target_name=target.name,
        exclusive=exclusive,
        args=args or {},
        asked_by=asker.by,
        reason=asker.reason,
    )
    session.add(op)
    session.flush()
    return op
