"""Admission of exports and imports of checkpoints. As :mod:`hostler.operations.requests`, in the panel's transaction."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, Denied, Invalid, NotFound
from hostler.core.lifecycle import State, Wanted
from hostler.core.limits import Limits
from hostler.core.names import check_name
from hostler.mobility.manifest import Manifest, PartKind
from hostler.operations.requests import Asker, add_operation, check_state, find_plan
from hostler.store import checkpoints
from hostler.store.models import Account, Container, Image, Node, Operation, Plan


@dataclass(frozen=True)
class Upload:
    """A file that has come whole: what it says of itself, and what it is."""

    manifest: Manifest
    digest: str
    size: int


@dataclass(frozen=True)
class Wish:
    """What the new container shall be: its name (empty: that of the original), its plan (empty: the first that allows as much), its server
    (none: the best)."""

    name: str = ""
    plan: str = ""
    on: str | None = None


def export(session: Session, asker: Asker, checkpoint: str) -> Operation:
    """Ask for a checkpoint's file."""
    row = checkpoints.find_checkpoint(session, asker.account, checkpoint)
    if row.state != "ready":
        raise Conflict(f"checkpoint {checkpoint} is {row.state}", hint="hostler checkpoint ls shows what there is", code="wrong_state")
    check_state(session, row.container, "checkpoint.export")
    return add_operation(session, asker, "checkpoint.export", row.container, {"checkpoint": row.id})


def check_wish(session: Session, asker: Asker, wish: Wish) -> None:
    """What can be refused before the file has come."""
    if not asker.account.provider:
        raise Denied("only the provider may import a checkpoint", hint="ask your provider: a crafted file would have root's rights on a server")
    if wish.name:
        check_name(wish.name)
        _check_free(session, asker.account, wish.name)
    if wish.plan:
        find_plan(session, wish.plan)
    if wish.on is not None and session.scalar(select(Node.id).where(Node.name == wish.on)) is None:
        raise NotFound(f"there is no server {wish.on}", hint="leave it out to have one chosen", code="unknown_node")


def bring_in(session: Session, asker: Asker, wish: Wish, upload: Upload) -> Operation:
    """Ask for a container from an uploaded file. Refused in words: a file without files, an image that is not here, a name that is taken."""
    check_wish(session, asker, wish)
    manifest = upload.manifest
    if not any(part.kind is PartKind.VOLUME for part in manifest.parts):
        raise Invalid(f"checkpoint {manifest.id} has no files of its container in it", hint="take a file that `hostler checkpoint export` wrote", code="no_files")
    name = wish.name or manifest.container.name
    _check_free(session, asker.account, name)
    plan = find_plan(session, wish.plan) if wish.plan else _plan_for(session, manifest.container.limits)
    container = Container(
        account_id=asker.account.id, name=name, plan_id=plan.id, image_id=_image_of(session, asker.account, manifest).id, wanted=Wanted.RUNNING,
        state=State.PROVISIONING, limits=manifest.container.limits.model_dump(mode="json"), process={},
        drivers=plan.drivers | {"ns": manifest.container.drivers.ns, "storage": manifest.storage},
    )  # fmt: skip
    session.add(container)
    session.flush()
    args = {"checkpoint": manifest.id, "digest": upload.digest, "size": upload.size, "architecture": manifest.architecture, "on": wish.on}
    return add_operation(session, asker, "checkpoint.import", container, args)


def _check_free(session: Session, account: Account, name: str) -> None:
    if session.scalar(select(Container.id).where(Container.account_id == account.id, Container.name == name)):
        raise Conflict(f"a container {name} exists already", hint="choose another name: --name, or delete it first", code="name_taken")


def _image_of(session: Session, account: Account, manifest: Manifest) -> Image:
    """The image of the same bytes that the container was made of."""
    visible = (Image.account_id == account.id) | Image.account_id.is_(None)
    found = session.scalar(select(Image).where(visible, Image.digest == manifest.container.image.digest, Image.state == "ready").order_by(Image.created_at).limit(1))
    if found is None:
        raise Conflict(
            f"no image here has the bytes of the container's own, {manifest.container.image.digest}", code="unknown_image",
            hint="import that very archive first: hostler image import",
        )
    return found


def _plan_for(session: Session, limits: Limits) -> Plan:
    """The first plan, by memory and name, that promises all that the container has."""
    plans = sorted(session.scalars(select(Plan)), key=lambda plan: (plan.limits.get("memory") or 1 << 62, plan.name))
    for plan in plans:
        if _within(limits, Limits.model_validate(plan.limits)):
            return plan
    raise Conflict("no plan allows as much as the container had", hint="name the one that it shall have: --plan", code="unknown_plan")


def _within(limits: Limits, plan: Limits) -> bool:
    pairs = [(limits.cpu, plan.cpu), (limits.memory, plan.memory), (limits.disk, plan.disk), (limits.pids, plan.pids)]
    return all(most is None or (has is not None and has <= most) for has, most in pairs)
