"""Start, stop, restart, and commands inside."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response

from hostler.core.api import ExecIn, OperationOut, RestartIn, StopIn
from hostler.operations import mobility_requests, requests
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import accepted, change

bp = APIBlueprint("power", __name__, tag="Containers")


def _power(name: str, kind: str, args: dict[str, float]) -> Response:
    return change(lambda session: accepted(requests.power(session, caller().asker(), name, kind, dict(args))))


@bp.post("/containers/<name>/start")
@bp.output(OperationOut, status_code=202)
def start_container(name: str) -> Response:
    """Ask for a stopped container to start"""
    return _power(name, "start", {})


@bp.post("/containers/<name>/stop")
@bp.input(StopIn)
@bp.output(OperationOut, status_code=202)
def stop_container(name: str, json_data: StopIn) -> Response:
    """Ask for a container to stop; its files and address stay

    A suspended one is resumed first, or gives its memory up with `discard_memory`.
    """
    if json_data.discard_memory:
        return change(lambda session: accepted(mobility_requests.discard(session, caller().asker(), name)))
    return _power(name, "stop", {"grace": json_data.grace})


@bp.post("/containers/<name>/restart")
@bp.input(RestartIn)
@bp.output(OperationOut, status_code=202)
def restart_container(name: str, json_data: RestartIn) -> Response:
    """Ask for a container to stop and start again"""
    return _power(name, "restart", {"grace": json_data.grace})


@bp.post("/containers/<name>/exec")
@bp.input(ExecIn)
@bp.output(OperationOut, status_code=202)
def exec_in_container(name: str, json_data: ExecIn) -> Response:
    """Ask for a command to run inside

    When the operation is done its `result` has `exit_code`, `stdout`, `stderr`, `truncated`, `timed_out`, `seconds`.
    """
    return change(lambda session: accepted(requests.execute(session, caller().asker(), name, json_data.spec())))
