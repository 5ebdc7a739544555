"""Operations: what was asked, how far it is, and news of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.broker import Broker
from hostler.core.api import OperationOut, OperationPage
from hostler.core.errors import NotFound, Unavailable
from hostler.operations import requests
from hostler.store.engine import Store
from hostler.store.models import Account, Operation
from hostler.web.answers import answer
from hostler.web.api.scope import ScopedQuery, account_ids
from hostler.web.api.shapes import operation_out
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, accepted, change
from hostler.web.openapi import raw
from hostler.web.paging import cut, split
from hostler.web.panel import panel
from hostler.web.streams import LIFETIME, Frame, event, event_stream

bp = APIBlueprint("operations", __name__, tag="Operations")

#: Seconds between two looks at the row while the broker cannot tell of changes.
GRAIN = 0.5


class OperationQuery(ScopedQuery):
    """Which operations."""

    state: Literal["queued", "running", "undoing", "done", "failed", "cancelled", "needs_attention"] | None = None
    container: str | None = Field(default=None, max_length=63, description="name or id of the container or image it is about")
    kind: str | None = Field(default=None, max_length=32)


def find_operation(session: Session, account: Account, operation_id: str) -> Operation:
    """The account's operation of that id; the provider finds everybody's."""
    operation = session.get(Operation, operation_id)
    if operation is None or not (account.provider or operation.account_id == account.id):
        raise NotFound(f"there is no operation {operation_id}", hint="hostler op list shows yours")
    return operation


@bp.get("/operations")
@bp.input(OperationQuery, location="query")
@bp.output(OperationPage)
def list_operations(query_data: OperationQuery) -> Response:
    """Operations, the newest first"""
    account = caller().account
    with panel().store.read() as session:
        query = select(Operation)
        ids = account_ids(session, account, query_data.account)
        if ids is not None:
            query = query.where(Operation.account_id.in_(ids))
        if query_data.state is not None:
            query = query.where(Operation.state == query_data.state)
        if query_data.kind is not None:
            query = query.where(Operation.kind == query_data.kind)
        if query_data.container is not None:
            query = query.where((Operation.target_name == query_data.container) | (Operation.target_id == query_data.container))
        rows, after = split(session.scalars(cut(query, query_data, Operation, newest_first=True)).all(), query_data)
        return answer(OperationPage(items=[operation_out(row, operator=account.provider) for row in rows], next=after))


@bp.get("/operations/<operation_id>")
@bp.output(OperationOut)
def show_operation(operation_id: str) -> Response:
    """One operation, with its steps"""
    account = caller().account
    with panel().store.read() as session:
        return answer(operation_out(find_operation(session, account, operation_id), operator=account.provider))


@bp.post("/operations/<operation_id>/cancel")
@bp.output(OperationOut, status_code=202)
def cancel_operation(operation_id: str) -> Response:
    """Ask an open operation to stop and undo what it did"""

    def act(session: Session) -> Done:
        operation = find_operation(session, caller().account, operation_id)
        session.refresh(operation, with_for_update=True)
        requests.cancel(session, operation)
        return accepted(operation)

    return change(act)


@bp.get("/operations/<operation_id>/events")
@bp.doc(responses=raw("text/event-stream", "A stream of events `operation`."))
def follow_operation(operation_id: str) -> Response:
    """News of an operation, as server-sent events

    One event `operation` with the whole operation at the start and at each change, until it has ended. Ends after ten minutes too.
    """
    account = caller().account
    with panel().store.read() as session:
        find_operation(session, account, operation_id)
    return event_stream(_news(panel().store, panel().broker, account, operation_id))


def _news(store: Store, broker: Broker, account: Account, operation_id: str) -> Iterator[Frame]:
    ends, told = time.monotonic() + LIFETIME, None
    for _ in _looks(broker, operation_id):
        with store.read() as session:
            shown = operation_out(find_operation(session, account, operation_id), operator=account.provider)
        yield event("operation", shown) if shown != told else None
        told = shown
        if shown.ended or time.monotonic() > ends:
            return


def _looks(broker: Broker, operation_id: str) -> Iterator[None]:
    """When to look at the row: at news of it, or every so often when the broker is away."""
    try:
        yield from broker.news(operation_id)
    except Unavailable:
        while True:
            yield
            time.sleep(GRAIN)
