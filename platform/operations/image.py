"""image.import and image.build: an archive is looked at, or made, by a server, and its image becomes ready."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hostler.core.errors import ErrorReport, NoRoom
from hostler.operations.container_spec import image_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step
from hostler.store.models import Image, Node, Operation


def _any_server(session: Session) -> str:
    node = session.scalar(select(Node.name).where(Node.state == "online").order_by(Node.load, Node.name).limit(1))
    if node is None:
        raise NoRoom("no server is online to work on the image", hint="hostler node list tells why", code="no_server")
    return node


class _ImageKind(Kind):
    lease = 30.0

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        image = session.get_one(Image, op.target_id)
        learned = steps[0].result or {}
        image.driver, image.digest, image.size = learned["driver"], learned["digest"], learned["size"]
        image.unpacked_size, image.config, image.state = learned["unpacked_size"], learned["config"], "ready"
        op.result = {"image": image.name, "digest": image.digest, "size": image.size, "unpacked_size": image.unpacked_size}

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        image = session.get_one(Image, op.target_id)
        digest = image.digest
        session.delete(image)
        session.flush()
        if digest:
            forget_blob(session, self, digest)


def forget_blob(session: Session, kind: Kind, digest: str) -> None:
    """Remove an archive that no image speaks of any more."""
    if not session.scalar(select(func.count()).select_from(Image).where(Image.digest == digest)):
        (kind.provider.blob_dir / digest.removeprefix("sha256:")).unlink(missing_ok=True)


class ImportImage(_ImageKind):
    """A server fetches the uploaded archive, verifies and unpacks it, and tells what it is."""

    name = "image.import"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        image = session.get_one(Image, op.target_id)
        spec = image_spec(image, self.provider).model_dump(mode="json")
        return [Step(name="import", node=_any_server(session), verb="image.import", payload={"image": spec}, undo="image.forget", undo_payload={"image": spec})]


class BuildImage(_ImageKind):
    """A server makes the archive from a recipe and hands it in."""

    name = "image.build"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        payload = {
            "recipe": op.args["recipe"],
            "store_url": self.provider.tickets.store_url(op.id),
            "operation": op.id,
        }
        return [Step(name="build", node=_any_server(session), verb="image.build", payload=payload)]


class DeleteImage(Kind):
    """Every server forgets the unpacked image; the archive goes when no other image has the same bytes."""

    name = "image.delete"

    def begin(self, session: Session, op: Operation) -> list[Step]:
        image = session.get_one(Image, op.target_id)
        op.args = op.args | {"digest": image.digest}
        shared = session.scalar(select(func.count()).select_from(Image).where(Image.digest == image.digest)) or 0
        if shared > 1 or not image.digest:
            return []
        spec = image_spec(image, self.provider).model_dump(mode="json")
        nodes = session.scalars(select(Node.name).where(Node.state == "online").order_by(Node.name)).all()
        return [Step(name=f"forget on {node}", node=node, verb="image.forget", payload={"image": spec}) for node in nodes]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        session.delete(session.get_one(Image, op.target_id))
        session.flush()
        if op.args["digest"]:
            forget_blob(session, self, op.args["digest"])

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        session.get_one(Image, op.target_id).state = "ready"
