"""What a container wrote and what it uses, asked of its server. No transaction is open while a server is waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from hostler.broker import Broker
from hostler.core.api import LogPage, UsageOut
from hostler.core.errors import Conflict, NotFound, Unavailable
from hostler.core.specs import DriverNames
from hostler.operations.requests import find_container
from hostler.store.engine import Store
from hostler.store.models import Account, Container
from hostler.web.answers import answer
from hostler.web.auth.bearer import caller
from hostler.web.openapi import raw
from hostler.web.panel import panel
from hostler.web.streams import LIFETIME, Frame, event, event_stream

bp = APIBlueprint("reading", __name__, tag="Containers")

#: Bytes of one page of output.
PAGE_BYTES = 256 << 10
#: Seconds between two looks for new lines.
GRAIN = 0.5


class LogsQuery(BaseModel):
    """Which lines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    follow: bool = Field(default=False, description="a stream of server-sent events `lines`, each a page")
    tail: int | None = Field(default=None, ge=0, le=100_000, description="only so many last lines")
    cursor: str | None = Field(default=None, max_length=200, description="only what came after; the former answer's cursor")


@dataclass(frozen=True)
class Place:
    """Where a container's server keeps it."""

    container: str
    node: str
    drivers: dict[str, Any]


def _place(account: Account, name: str) -> Place:
    with panel().store.read() as session:
        found = find_container(session, account, name)
        if found.node is None:
            raise Conflict(f"container {found.name} is not on a server yet", hint="wait until it runs", code="wrong_state")
        if found.node.state == "offline":  # it would be waited for in vain, and a thread with it
            raise Unavailable(f"server {found.node.name} is offline", hint="wait until it is back: hostler node list tells", code="node_offline")
        return Place(found.id, found.node.name, DriverNames.model_validate(found.drivers).model_dump())


def _ask_lines(broker: Broker, place: Place, cursor: str | None, tail: int | None) -> LogPage:
    question = {"container": place.container, "cursor": cursor, "tail": tail, "max_bytes": PAGE_BYTES}
    return LogPage.model_validate(broker.ask(place.node, "container.logs", question))


@bp.get("/containers/<name>/logs")
@bp.input(LogsQuery, location="query")
@bp.output(LogPage)
@bp.doc(responses=raw("text/event-stream", "Lines; with follow=1 a stream of them."))
def show_logs(name: str, query_data: LogsQuery) -> Response:
    """What a container wrote to its standard output and error

    With `follow=1` a stream that ends after ten minutes; ask again with the last page's cursor.
    """
    place, broker = _place(caller().account, name), panel().broker
    first = _ask_lines(broker, place, query_data.cursor, query_data.tail)
    if not query_data.follow:
        return answer(first)
    return event_stream(_lines(broker, panel().store, place, first))


def _now(store: Store, place: Place) -> Place:
    """Where the container is by now: it may have moved, and its log with it. Raises :class:`NotFound` once it is deleted."""
    with store.read() as session:
        found = session.get(Container, place.container)
        if found is None:
            raise NotFound("the container was deleted", hint="hostler list shows what there is")
        return place if found.node is None else replace(place, node=found.node.name)


def _lines(broker: Broker, store: Store, place: Place, page: LogPage) -> Iterator[Frame]:
    ends = time.monotonic() + LIFETIME
    while time.monotonic() < ends:
        if page.lines:
            yield event("lines", page)
        else:
            yield None
        if len(page.lines) < 2:
            time.sleep(GRAIN)
            place = _now(store, place)
        page = _ask_lines(broker, place, page.cursor, None)


@bp.get("/containers/<name>/usage")
@bp.output(UsageOut)
def show_usage(name: str) -> Response:
    """What a container uses now, its high-water marks, and how often a limit hit it"""
    place = _place(caller().account, name)
    return answer(UsageOut.model_validate(panel().broker.ask(place.node, "container.usage", {"container": place.container, "drivers": place.drivers})))
