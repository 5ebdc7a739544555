"""Suspend, resume, migrate, restore, clone; and what a suspend or a move would meet, asked of the servers before anything is touched."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from hostler.core.api import (
    CloneIn,
    MigrateCheck,
    MigrateIn,
    OperationOut,
    RestoreIn,
    ResumeIn,
    SuspendCheck,
)
from hostler.operations import mobility_requests
from hostler.web import preflight
from hostler.web.answers import answer
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import accepted, change
from hostler.web.panel import panel

bp = APIBlueprint("mobility", __name__, tag="Mobility")


_METHODS = r"^((pre_copy|post_copy|stop_copy)(,|$)){0,3}$"


class TargetQuery(BaseModel):
    """Where it would move."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: str | None = Field(default=None, max_length=63, description="a server; left out: the best of the others")
    methods: str = Field(default="", max_length=64, pattern=_METHODS, description="only these, with commas between; left out: all")
    allow_restart: bool = Field(default=False, description="whether it may be stopped, copied and started")


@bp.post("/containers/<name>/suspend")
@bp.output(OperationOut, status_code=202)
def suspend_container(name: str) -> Response:
    """Ask for a container's memory to go to disk

    Its processors and memory are given back; its files, its address and its open connections stay its own.
    """
    return change(lambda session: accepted(mobility_requests.suspend(session, caller().asker(), name)))


@bp.get("/containers/<name>/suspend")
@bp.output(SuspendCheck)
def check_suspend(name: str) -> Response:
    """What a suspend would meet; nothing is changed"""
    return answer(preflight.check_suspend(panel(), caller().account, name))


@bp.post("/containers/<name>/resume")
@bp.input(ResumeIn)
@bp.output(OperationOut, status_code=202)
def resume_container(name: str, json_data: ResumeIn) -> Response:
    """Ask for a suspended container to come back, on its server or on another"""
    on, drop = json_data.on, json_data.drop_checkpoints
    return change(lambda session: accepted(mobility_requests.resume(session, caller().asker(), name, on, drop_checkpoints=drop)))


@bp.post("/containers/<name>/migrate")
@bp.input(MigrateIn)
@bp.output(OperationOut, status_code=202)
def migrate_container(name: str, json_data: MigrateIn) -> Response:
    """Ask for a container to move to another server

    When the operation is done its `result` has `method`, `why`, `frozen_ms`, `bytes`, `phases` (milliseconds by name), `rounds`, `from` and `to`.
    """
    asked = json_data.model_dump()
    return change(lambda session: accepted(mobility_requests.migrate(session, caller().asker(), name, **asked)))


@bp.get("/containers/<name>/migrate")
@bp.input(TargetQuery, location="query")
@bp.output(MigrateCheck)
def check_migrate(name: str, query_data: TargetQuery) -> Response:
    """What a move would meet, and which it would be; nothing is changed"""
    methods = [method for method in query_data.methods.split(",") if method]
    return answer(preflight.check_migrate(panel(), caller().account, name, query_data.to, methods, allow_restart=query_data.allow_restart))


@bp.post("/containers/<name>/restore")
@bp.input(RestoreIn)
@bp.output(OperationOut, status_code=202)
def restore_container(name: str, json_data: RestoreIn) -> Response:
    """Ask for a container to go back in time, memory and files, to one of its checkpoints

    What runs is killed; connections that the checkpoint knows are closed.
    """
    return change(lambda session: accepted(mobility_requests.restore(session, caller().asker(), name, json_data.checkpoint)))


@bp.post("/containers/<name>/clone")
@bp.input(CloneIn)
@bp.output(OperationOut, status_code=202)
def clone_container(name: str, json_data: CloneIn) -> Response:
    """Ask for a new container from a checkpoint of this one

    It has an address and a name of its own; connections of the original are closed in it.
    """
    return change(lambda session: accepted(mobility_requests.clone(session, caller().asker(), name, json_data.checkpoint, json_data.name)))
