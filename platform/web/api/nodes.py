"""Servers, for the provider."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hostler.core.api import NodeOut, NodePage
from hostler.store.models import Container, Node
from hostler.store.nodes import find_node
from hostler.web.answers import answer
from hostler.web.api.shapes import node_out
from hostler.web.auth.access import Access, access
from hostler.web.paging import PageQuery, cut, split
from hostler.web.panel import panel

bp = APIBlueprint("nodes", __name__, tag="Nodes")


def _counts(session: Session, nodes: list[str]) -> dict[str | None, int]:
    counted = session.execute(select(Container.node_id, func.count()).where(Container.node_id.in_(nodes)).group_by(Container.node_id))
    return {row[0]: row[1] for row in counted}


@bp.get("/nodes")
@bp.input(PageQuery, location="query")
@bp.output(NodePage)
@access(Access.PROVIDER)
def list_nodes(query_data: PageQuery) -> Response:
    """All servers"""
    with panel().store.read() as session:
        rows, after = split(session.scalars(cut(select(Node), query_data, Node)).all(), query_data)
        counts = _counts(session, [row.id for row in rows])
        return answer(NodePage(items=[node_out(row, counts.get(row.id, 0)) for row in rows], next=after))


@bp.get("/nodes/<name>")
@bp.output(NodeOut)
@access(Access.PROVIDER)
def show_node(name: str) -> Response:
    """One server: facts, drivers, what it has and what it promised"""
    with panel().store.read() as session:
        node = find_node(session, name)
        return answer(node_out(node, _counts(session, [node.id]).get(node.id, 0)))
