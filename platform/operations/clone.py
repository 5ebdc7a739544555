"""clone: a new container from the memory and files of another's checkpoint, with an address and a name of its own."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.lifecycle import State
from hostler.core.limits import Limits
from hostler.core.messages import now
from hostler.operations import container_steps, mobility_steps
from hostler.operations.candidates import candidate
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.provision import forget_container
from hostler.operations.restore import check_has_files
from hostler.operations.steps import Step
from hostler.placement.choose import choose
from hostler.store import addresses, nodes
from hostler.store.models import Checkpoint, Container, Node, Operation


class Clone(Kind):
    """It is made where the checkpoint is. Connections of the original are closed in it."""

    name = "clone"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        row = session.get(Checkpoint, op.args["checkpoint"])
        if row is None or row.state != "ready":
            raise Conflict(f"checkpoint {op.args['checkpoint']} is gone", hint="hostler checkpoint ls shows what there is", code="wrong_state")
        check_has_files(row, container.drivers.get("storage", ""))
        mobility_steps.check_online(row.node)
        reasons = self._place(session, container, row)
        addresses.allocate(session, self.provider.pool, container.account_id, container.id)
        session.refresh(container, ["address"])
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        node = row.node.name
        volume = Step(
            name="volume", node=node, verb="volume.clone", payload={"source": row.container_id, "snapshot": row.snapshot}, undo="volume.delete",
            note="files of the checkpoint",
        )  # fmt: skip
        back = mobility_steps.come_back(node, row.id, close_connections=True, source=row.container_id)
        return [container_steps.placed(node, reasons), volume, *back]

    def _place(self, session: Session, container: Container, row: Checkpoint) -> dict[str, str]:
        locked = session.scalars(select(Node).order_by(Node.name).with_for_update()).all()
        node = next(node for node in locked if node.id == row.node_id)
        limits = Limits.model_validate(container.limits)
        choice = choose([candidate(node)], limits, container.drivers, self.provider.overcommit)
        container.node_id, container.drivers, container.id_slot = node.id, choice.drivers.model_dump(), nodes.free_slot(session)
        nodes.promise(session, node.id, limits)
        session.flush()
        return choice.reasons

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        container.state, container.started_at, container.error = State.RUNNING, now(), None
        restored = mobility_steps.outcome(steps, "checkpoint.restore")
        op.result = {"checkpoint": op.args["checkpoint"], "ms": (restored.result or {}).get("ms") if restored else None} | mobility_steps.hook(steps)

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """Everything was undone, so nothing of the container remains; unless its server is not there to say so."""
        container = session.get_one(Container, op.target_id)
        if error.code == "node_offline":
            container.state, container.wanted, container.error = State.ERROR, "absent", error.model_dump(mode="json")
            return
        forget_container(session, container)
