"""checkpoint.export and checkpoint.import: a checkpoint as a file for elsewhere, and a container from such a file."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, ErrorReport
from hostler.core.lifecycle import State, check_allowed
from hostler.core.limits import Limits
from hostler.core.messages import now
from hostler.core.specs import Process
from hostler.operations import container_steps, mobility_steps, transfers
from hostler.operations.candidates import candidate
from hostler.operations.container_spec import container_spec
from hostler.operations.kind import Kind
from hostler.operations.provision import forget_container
from hostler.operations.restore import check_has_files
from hostler.operations.steps import Step
from hostler.placement.choose import Choice, choose
from hostler.store import addresses, nodes
from hostler.store.models import Checkpoint, Container, Image, Node, Operation


class ExportCheckpoint(Kind):
    """Its server writes the file to the panel, where it waits for whoever asked. In line with the container's other operations, none of
    which may take the snapshot away meanwhile."""

    name = "checkpoint.export"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        check_allowed(self.name, State(container.state), container.name)
        row = session.get(Checkpoint, op.args["checkpoint"])
        if row is None or row.state != "ready":
            raise Conflict(f"checkpoint {op.args['checkpoint']} is gone", hint="hostler checkpoint ls shows what there is", code="wrong_state")
        check_has_files(row, container.drivers.get("storage", ""))
        mobility_steps.check_online(row.node)
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        payload = {"checkpoint": row.id, "url": self.provider.tickets.hand_in_url(op.id), "limit": self.provider.checkpoint_limit}
        return [Step(name="export", node=row.node.name, verb="checkpoint.export", payload=payload, note="memory and files, to the panel")]

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        op.result = dict(steps[0].result or {})

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        transfers.remove(self.provider.transfer_dir, op.id)


class ImportCheckpoint(Kind):
    """A new container of an uploaded file, as a clone is made: warm, with a name, addresses and host ids of its own."""

    name = "checkpoint.import"
    lease = 30.0

    def begin(self, session: Session, op: Operation) -> list[Step]:
        container = session.get_one(Container, op.target_id)
        if container.image.state != "ready":
            raise Conflict(f"image {container.image.name} is not ready", hint="wait until its import has ended", code="image_not_ready")
        choice = self._place(session, op, container)
        addresses.allocate(session, self.provider.pool, container.account_id, container.id)
        session.refresh(container, ["address"])
        op.spec = container_spec(session, container, self.provider).model_dump(mode="json")
        node = choice.node
        payload = {"url": self.provider.tickets.take_url(op.id), "size": op.args["size"], "digest": op.args["digest"]}
        return [
            container_steps.placed(node, choice.reasons),
            Step(
                name="import", node=node, verb="checkpoint.import", payload=payload, undo="checkpoint.discard", weight=6,
                note="all of the file is verified, then memory and files are brought in, held",
            ),
            Step(name="release", node=node, verb="checkpoint.release", settles=True, awaited=True, note="it runs, and its packets flow"),
        ]  # fmt: skip

    def _place(self, session: Session, op: Operation, container: Container) -> Choice:
        locked = session.scalars(select(Node).order_by(Node.name).with_for_update()).all()
        wanted, machine = op.args.get("on"), op.args["architecture"]
        fitting = [node for node in locked if wanted in (None, node.name) and node.facts.get("architecture") in (None, machine)]
        if not fitting:
            raise Conflict(f"the checkpoint is of {machine}; {wanted or 'none of the servers'} is", hint=f"import it to a server of {machine}", code="does_not_fit")
        limits = Limits.model_validate(container.limits)
        choice = choose([candidate(node) for node in fitting], limits, container.drivers, self.provider.overcommit)
        node = next(node for node in fitting if node.name == choice.node)
        container.node_id, container.drivers, container.id_slot = node.id, choice.drivers.model_dump(), nodes.free_slot(session)
        nodes.promise(session, node.id, limits)
        session.flush()
        return choice

    def succeeded(self, session: Session, op: Operation, steps: list[Step]) -> None:
        container = session.get_one(Container, op.target_id)
        told = next(step for step in steps if step.verb == "checkpoint.import").result or {}
        container.process = wanted_process(container.image, Process.model_validate(told["process"]))
        container.state, container.started_at, container.error = State.RUNNING, now(), None
        op.result = {"checkpoint": op.args["checkpoint"], "ms": told.get("ms"), "phases": told.get("phases", {})} | mobility_steps.hook(steps)
        transfers.remove(self.provider.transfer_dir, op.id)

    def failed(self, session: Session, op: Operation, error: ErrorReport) -> None:
        """Everything was undone, so nothing of the container remains; unless its server is not there to say so."""
        transfers.remove(self.provider.transfer_dir, op.id)
        container = session.get_one(Container, op.target_id)
        if error.code == "node_offline":
            container.state, container.wanted, container.error = State.ERROR, "absent", error.model_dump(mode="json")
            return
        forget_container(session, container)


def wanted_process(image: Image, process: Process) -> dict[str, Any]:
    """What to ask of an image to be run as ``process``: the reverse of :func:`hostler.operations.container_spec.process_of`."""
    entry = tuple(image.config.get("entrypoint", ()))
    args = process.args[len(entry) :] if process.args[: len(entry)] == entry else process.args
    return {"args": list(args), "env": list(process.env), "cwd": process.cwd, "user": process.user}
