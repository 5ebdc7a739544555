"""Plans: what a provider sells."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hostler.core.api import PlanIn, PlanOut, PlanPage
from hostler.core.errors import Conflict
from hostler.operations.requests import find_plan
from hostler.store.models import Container, Plan
from hostler.web.answers import answer
from hostler.web.api.shapes import plan_out
from hostler.web.auth.access import Access, access
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, change
from hostler.web.paging import PageQuery, cut, split
from hostler.web.panel import panel

bp = APIBlueprint("plans", __name__, tag="Plans")


def _users(session: Session, plans: list[str]) -> dict[str, int]:
    """Containers by plan, for the provider only: how much is sold is not a tenant's business."""
    if not caller().account.provider:
        return {}
    counted = session.execute(select(Container.plan_id, func.count()).where(Container.plan_id.in_(plans)).group_by(Container.plan_id))
    return dict.fromkeys(plans, 0) | {row[0]: row[1] for row in counted}


@bp.get("/plans")
@bp.input(PageQuery, location="query")
@bp.output(PlanPage)
def list_plans(query_data: PageQuery) -> Response:
    """All plans"""
    with panel().store.read() as session:
        rows, after = split(session.scalars(cut(select(Plan), query_data, Plan)).all(), query_data)
        users = _users(session, [row.id for row in rows])
        return answer(PlanPage(items=[plan_out(row, users.get(row.id)) for row in rows], next=after))


@bp.get("/plans/<name>")
@bp.output(PlanOut)
def show_plan(name: str) -> Response:
    """One plan"""
    with panel().store.read() as session:
        plan = find_plan(session, name)
        return answer(plan_out(plan, _users(session, [plan.id]).get(plan.id)))


@bp.post("/plans")
@bp.input(PlanIn)
@bp.output(PlanOut, status_code=201)
@access(Access.PROVIDER)
def create_plan(json_data: PlanIn) -> Response:
    """Make a plan"""

    def act(session: Session) -> Done:
        if session.scalar(select(Plan.id).where(Plan.name == json_data.name)):
            raise Conflict(f"a plan {json_data.name} exists already", hint="choose another name", code="name_taken")
        plan = Plan(
            name=json_data.name,
            description=json_data.description,
            limits=json_data.limits.model_dump(mode="json"),
            drivers=json_data.drivers.model_dump(exclude_none=True),
        )
        session.add(plan)
        session.flush()
        return Done(plan_out(plan, 0), 201, {"Location": f"/v1/plans/{plan.name}"})

    return change(act)


@bp.delete("/plans/<name>")
@bp.output({}, status_code=204)
@access(Access.PROVIDER)
def delete_plan(name: str) -> Response:
    """Delete a plan that no container has"""

    def act(session: Session) -> Done:
        plan = find_plan(session, name)
        users = session.scalar(select(func.count()).select_from(Container).where(Container.plan_id == plan.id)) or 0
        if users:
            raise Conflict(f"{users} containers have plan {name}", hint="delete them first", code="in_use")
        session.delete(plan)
        return Done(None, 204)

    return change(act)
