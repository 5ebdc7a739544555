"""Containers: create, list, show, resize, delete."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.api import ContainerIn, ContainerOut, ContainerPage, OperationOut
from hostler.core.lifecycle import State
from hostler.core.limits import Limits, LimitsChange
from hostler.operations import requests
from hostler.store.models import Container, Node
from hostler.web.allowance import check_within
from hostler.web.answers import answer
from hostler.web.api.container_rows import container_out, open_operations, rows_query
from hostler.web.api.scope import ScopedQuery, account_ids
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, accepted, change
from hostler.web.paging import cut, split
from hostler.web.panel import panel

bp = APIBlueprint("containers", __name__, tag="Containers")


class ContainerQuery(ScopedQuery):
    """Which containers."""

    state: State | None = None
    node: str | None = Field(default=None, max_length=63)
    name: str | None = Field(default=None, max_length=63, description="the beginning of the name")


@bp.get("/containers")
@bp.input(ContainerQuery, location="query")
@bp.output(ContainerPage)
def list_containers(query_data: ContainerQuery) -> Response:
    """Containers, the oldest first"""
    account = caller().account
    with panel().store.read() as session:
        query = rows_query()
        ids = account_ids(session, account, query_data.account)
        if ids is not None:
            query = query.where(Container.account_id.in_(ids))
        if query_data.state is not None:
            query = query.where(Container.state == query_data.state)
        if query_data.node is not None:
            query = query.where(Container.node_id.in_(select(Node.id).where(Node.name == query_data.node)))
        if query_data.name is not None:
            query = query.where(Container.name.startswith(query_data.name, autoescape=True))
        rows, after = split(session.scalars(cut(query, query_data, Container)).all(), query_data)
        busy = open_operations(session, (row.id for row in rows))
        pool = panel().pool
        items = [container_out(row, busy.get(row.id), pool, operator=account.provider) for row in rows]
    return answer(ContainerPage(items=items, next=after))


@bp.get("/containers/<name>")
@bp.output(ContainerOut)
def show_container(name: str) -> Response:
    """One container, by name or id"""
    account = caller().account
    with panel().store.read() as session:
        row = requests.find_container(session, account, name)
        busy = open_operations(session, [row.id])
        return answer(container_out(row, busy.get(row.id), panel().pool, operator=account.provider))


@bp.post("/containers")
@bp.input(ContainerIn)
@bp.output(OperationOut, status_code=202)
def create_container(json_data: ContainerIn) -> Response:
    """Ask for a container"""

    def act(session: Session) -> Done:
        plan = requests.find_plan(session, json_data.plan)
        if json_data.limits is not None and not caller().account.provider:
            check_within(json_data.limits, Limits.model_validate(plan.limits), plan.name)
        operation = requests.create(
            session, caller().asker(), json_data.name, json_data.image, json_data.plan, json_data.process(), json_data.limits
        )
        return accepted(operation)

    return change(act)


@bp.post("/containers/<name>/resize")
@bp.input(LimitsChange)
@bp.output(OperationOut, status_code=202)
def resize_container(name: str, json_data: LimitsChange) -> Response:
    """Ask for other limits, live

    Only what is given changes; null lifts a limit. A tenant's may not exceed the plan's.
    """

    def act(session: Session) -> Done:
        if not caller().account.provider:
            plan = requests.find_container(session, caller().account, name).plan
            check_within(json_data, Limits.model_validate(plan.limits), plan.name)
        return accepted(requests.resize(session, caller().asker(), name, json_data))

    return change(act)


@bp.delete("/containers/<name>")
@bp.output(OperationOut, status_code=202)
def delete_container(name: str) -> Response:
    """Ask for a container's end"""
    return change(lambda session: accepted(requests.delete(session, caller().asker(), name)))
