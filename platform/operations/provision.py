"""provision: from a request to a running container."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.lifecycle import State
from hostler.core.limits import Limits
from hostler.core.messages import now
from hostler.operations import container_steps, promises
from hostler.operations.candidates import candidate
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.steps import Step
from hostler.placement.choose import Choice, choose
from hostler.store import addresses, checkpoints, nodes
from hostler.store.models import Container, Node, Operation


class Provision(Kind):
    """Place, take an address and a range of ids, then make and start everything on the server."""

    name = "provision"
    lease = 30.0  # unpacking an image for the first time may keep a busy server quiet

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        if container.image.state != "ready":
            raise Conflict(f"image {container.image.name} is not ready", hint="wait until its import has ended", code="image_not_ready")
        limits = Limits.model_validate(container.limits)
        choice = self._place(session, container, limits)
        addresses.allocate(session, self.provider.pool, container.account_id, container.id)
        session.refresh(container, ["address"])
        spec = container_spec(session, container, self.provider)
        op.spec = spec.model_dump(mode="json")
        node = choice.node
        return [
            container_steps.placed(node, choice.reasons),
            *container_steps.make_volume(node),
            *container_steps.bring_up(node),
        ]

    def _place(self, session: Session, container: Container, limits: Limits) -> Choice:
        rows = session.scalars(select(Node).order_by(Node.name).with_for_update()).all()
        choice = choose([candidate(node) for node in rows], limits, container.drivers, self.provider.overcommit)
        node = next(row for row in rows if row.name == choice.node)
        container.node_id, container.drivers = node.id, choice.drivers.model_dump()
        container.id_slot = nodes.free_slot(session)
        nodes.promise(session, node.id, limits)
        session.flush()
        return choice

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        container.state, container.started_at, container.error = State.RUNNING, now(), None

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """Everything was undone, so nothing of the container remains; unless its server is not there to say so."""
        container = session.get_one(Container, op.target_id)
        if error.code == "node_offline":
            container.state, container.wanted, container.error = State.ERROR, "absent", error.model_dump(mode="json")
            return
        forget_container(session, container)


def forget_container(session: Session, container: Container) -> None:
    """Take the row out of the store, with its address, its checkpoints and its server's promise."""
    addresses.release(session, container.id)
    if container.node_id is not None:
        promises.give_back(session, container.node_id, promises.held(container))
    for row in checkpoints.of_container(session, container.id):
        checkpoints.forget(session, row)
    session.expire(container, ["address"])
    session.flush()
    session.delete(container)
