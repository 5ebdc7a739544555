"""Checkpoints: take, list, show, look into, verify, remove."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import joinedload

from hostler.core.api import (
    CheckpointIn,
    CheckpointInspection,
    CheckpointOut,
    CheckpointPage,
    CheckpointVerification,
    OperationOut,
)
from hostler.operations import mobility_requests, mobility_steps
from hostler.store.checkpoints import find_checkpoint
from hostler.store.models import Checkpoint, Container
from hostler.web.answers import answer
from hostler.web.api.scope import ScopedQuery, account_ids
from hostler.web.api.shapes import checkpoint_out
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import accepted, change
from hostler.web.paging import cut, split
from hostler.web.panel import panel

bp = APIBlueprint("checkpoints", __name__, tag="Mobility")

#: Seconds that a server may take to read a whole checkpoint.
VERIFY_TIMEOUT = 25.0


class CheckpointQuery(ScopedQuery):
    """Which checkpoints."""

    container: str | None = Field(default=None, max_length=63, description="name or id of a container")


@bp.post("/containers/<name>/checkpoints")
@bp.input(CheckpointIn)
@bp.output(OperationOut, status_code=202)
def create_checkpoint(name: str, json_data: CheckpointIn) -> Response:
    """Ask for a checkpoint of a running container, which goes on

    Its id is the operation's `request.checkpoint`.
    """
    return change(lambda session: accepted(mobility_requests.checkpoint(session, caller().asker(), name, json_data.name or "")))


@bp.get("/checkpoints")
@bp.input(CheckpointQuery, location="query")
@bp.output(CheckpointPage)
def list_checkpoints(query_data: CheckpointQuery) -> Response:
    """Checkpoints, the oldest first"""
    with panel().store.read() as session:
        query = select(Checkpoint).options(joinedload(Checkpoint.container), joinedload(Checkpoint.node))
        ids = account_ids(session, caller().account, query_data.account)
        if ids is not None:
            query = query.where(Checkpoint.account_id.in_(ids))
        if query_data.container is not None:
            wanted = (Container.name == query_data.container) | (Container.id == query_data.container)
            query = query.where(Checkpoint.container_id.in_(select(Container.id).where(wanted)))
        rows, after = split(session.scalars(cut(query, query_data, Checkpoint)).all(), query_data)
        return answer(CheckpointPage(items=[checkpoint_out(row) for row in rows], next=after))


@bp.get("/checkpoints/<checkpoint_id>")
@bp.output(CheckpointOut)
def show_checkpoint(checkpoint_id: str) -> Response:
    """One checkpoint"""
    with panel().store.read() as session:
        return answer(checkpoint_out(find_checkpoint(session, caller().account, checkpoint_id)))


def _server_of(checkpoint_id: str) -> str:
    """Where it is. Raises :class:`Unavailable` for a server that is away."""
    with panel().store.read() as session:
        node = find_checkpoint(session, caller().account, checkpoint_id).node
        mobility_steps.check_online(node)
        return node.name


@bp.get("/checkpoints/<checkpoint_id>/manifest")
@bp.output(CheckpointInspection)
def inspect_checkpoint(checkpoint_id: str) -> Response:
    """What a checkpoint's file says of itself: read on its server"""
    return answer(CheckpointInspection(manifest=panel().broker.ask(_server_of(checkpoint_id), "checkpoint.inspect", {"checkpoint": checkpoint_id})))


@bp.get("/checkpoints/<checkpoint_id>/verify")
@bp.output(CheckpointVerification)
def verify_checkpoint(checkpoint_id: str) -> Response:
    """Read a checkpoint's file, every byte, on its server; a flipped bit or a cut file is told as `invalid`"""
    found = panel().broker.ask(_server_of(checkpoint_id), "checkpoint.verify", {"checkpoint": checkpoint_id}, timeout=VERIFY_TIMEOUT)
    return answer(CheckpointVerification(intact=True, details=found))


@bp.delete("/checkpoints/<checkpoint_id>")
@bp.output(OperationOut, status_code=202)
def delete_checkpoint(checkpoint_id: str) -> Response:
    """Ask for a checkpoint's end; the container stays as it is"""
    return change(lambda session: accepted(mobility_requests.delete_checkpoint(session, caller().asker(), checkpoint_id)))
