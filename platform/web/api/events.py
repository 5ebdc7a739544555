"""The event log."""

from __future__ import annotations

import re

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy import or_, select

from hostler.core.api import EventOut, EventPage
from hostler.store.models import Event
from hostler.web.answers import answer
from hostler.web.api.scope import ScopedQuery, account_ids
from hostler.web.api.shapes import event_out
from hostler.web.auth.bearer import caller
from hostler.web.paging import bad_cursor
from hostler.web.panel import panel

bp = APIBlueprint("events", __name__, tag="Events")


class EventQuery(ScopedQuery):
    """Which events."""

    container: str | None = Field(default=None, max_length=63, description="name or id")
    kind: str | None = Field(default=None, max_length=32)
    since: int | None = Field(default=None, ge=0, le=2**62, description="only events with a higher id, in their order: to follow the log")


@bp.get("/events")
@bp.input(EventQuery, location="query")
@bp.output(EventPage)
def list_events(query_data: EventQuery) -> Response:
    """What happened, the newest first; with `since`, in its order"""
    account = caller().account
    with panel().store.read() as session:
        query = select(Event)
        ids = account_ids(session, account, query_data.account)
        if ids is not None:
            mine = Event.account_id.in_(ids)
            query = query.where(or_(mine, Event.account_id.is_(None)) if account.provider and account.id in ids else mine)
        if query_data.container is not None:
            query = query.where((Event.container_name == query_data.container) | (Event.container_id == query_data.container))
        if query_data.kind is not None:
            query = query.where(Event.kind == query_data.kind)
        forward = query_data.since is not None
        if query_data.since is not None:
            query = query.where(Event.id > query_data.since)
        if query_data.after is not None:
            last = _last(query_data.after)
            query = query.where(Event.id > last if forward else Event.id < last)
        query = query.order_by(Event.id if forward else Event.id.desc()).limit(query_data.limit + 1)
        shown: list[EventOut] = [event_out(row) for row in session.scalars(query)]
    page = shown[: query_data.limit]
    return answer(EventPage(items=page, next=f"e{page[-1].id}" if len(shown) > len(page) else None))


def _last(after: str) -> int:
    if not re.fullmatch(r"e[0-9]{1,18}", after):
        raise bad_cursor()
    return int(after[1:])
