"""Checkpoints as files: exported and downloaded, uploaded and imported; and their way between panel and servers, with tickets."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apiflask import APIBlueprint
from flask import Response, request, send_file
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from hostler.core.api import Blob, OperationOut
from hostler.core.errors import Conflict, NotFound
from hostler.core.names import Name
from hostler.mobility.manifest import Manifest
from hostler.mobility.reading import read_manifest
from hostler.operations import transfer_requests, transfers
from hostler.operations.transfer_requests import Wish
from hostler.store.models import Operation
from hostler.web import blobs
from hostler.web.answers import answer
from hostler.web.api.operations import find_operation
from hostler.web.auth.access import Access, access
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, accepted, change
from hostler.web.openapi import raw, takes_archive
from hostler.web.panel import panel

bp = APIBlueprint("transfers", __name__, tag="Mobility")

_SETTING = "HOSTLER_CHECKPOINT_LIMIT"


class TicketQuery(BaseModel):
    """A ticket for one operation's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket: str = Field(max_length=1000)


class CheckpointImportQuery(BaseModel):
    """What the container is to be that is made of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = Field(default=None, description="left out: what the original was called")
    plan: str | None = Field(default=None, max_length=63, description="left out: the smallest that allows as much as the original had")
    on: str | None = Field(default=None, max_length=63, description="a server; left out: the best")


# --- for people ---


@bp.post("/checkpoints/<checkpoint_id>/export")
@bp.output(OperationOut, status_code=202)
def export_checkpoint(checkpoint_id: str) -> Response:
    """Ask for a checkpoint as one file: memory and files, for this installation or another

    When the operation is done, `GET /v1/operations/{operation_id}/file` is the file, for an hour; `result` has its `digest` and `size`.
    """

    def act(session: Session) -> Done:
        transfers.check_share(session, _folder(), caller().account.id)
        return accepted(transfer_requests.export(session, caller().asker(), checkpoint_id))

    return change(act)


@bp.get("/operations/<operation_id>/file")
@bp.doc(responses=raw("application/octet-stream", "The checkpoint."))
def download_checkpoint(operation_id: str) -> Response:
    """The file that an export has made"""
    path = _own_file(operation_id)
    try:
        return send_file(path, mimetype="application/octet-stream", etag=False)
    except FileNotFoundError as error:
        raise _gone(operation_id) from error


@bp.delete("/operations/<operation_id>/file")
@bp.output({}, status_code=204)
def remove_checkpoint_file(operation_id: str) -> Response:
    """Remove the file that an export has made: it was downloaded, or is not wanted"""
    _own_file(operation_id)
    transfers.remove(_folder(), operation_id)
    return Response(status=204)


def _own_file(operation_id: str) -> Path:
    """Raises :class:`NotFound` for another account's, or one that is gone or not yet there."""
    with panel().store.read() as session:
        operation = find_operation(session, caller().account, operation_id)
        path = transfers.path_of(_folder(), operation.id)
        if operation.kind != "checkpoint.export" or operation.state != "done" or not path.is_file():
            raise _gone(operation_id)
    return path


def _gone(operation_id: str) -> NotFound:
    return NotFound(
        f"operation {operation_id} has no file to download", hint="it is there once the export is done, until it was downloaded or for an hour: export it again",
        code="unknown_file",
    )


@bp.post("/checkpoints/import")
@bp.input(CheckpointImportQuery, location="query")
@bp.output(OperationOut, status_code=202)
@takes_archive
@access(Access.PROVIDER)
def import_checkpoint(query_data: CheckpointImportQuery) -> Response:
    """Upload an exported checkpoint and ask for a container of it

    The body is the file itself. The container comes up warm, with a name and addresses of its own; connections of the original are closed in it.
    The image with the very bytes that the original was made of must be here.
    """
    limit, wish = panel().settings.checkpoint_limit, Wish(name=query_data.name or "", plan=query_data.plan or "", on=query_data.on)
    blobs.check_promised(request.content_length, limit, _SETTING)
    request.max_content_length = limit
    if not request.headers.get("Idempotency-Key"):  # with one, the name may be taken by this very request's first try
        with panel().store.read() as session:
            transfer_requests.check_wish(session, caller().asker(), wish)
    with blobs.received(request.stream, _folder(), limit, request.content_length, _SETTING) as upload:
        told = transfer_requests.Upload(_manifest(upload), upload.digest, upload.size)
        with _kept_for_operations() as names:

            def act(session: Session) -> Done:
                operation = transfer_requests.bring_in(session, caller().asker(), wish, told)
                names.append(operation.id)
                upload.keep(operation.id)
                return accepted(operation)

            return change(act, content=upload.digest)


def _manifest(upload: blobs.Upload) -> Manifest:
    """What the file says of itself. Raises :class:`Invalid` for what is no checkpoint."""
    with io.FileIO(os.dup(upload.descriptor), "rb") as file:
        file.seek(0)
        return read_manifest(file)


@contextmanager
def _kept_for_operations() -> Iterator[list[str]]:
    """Of the files named by operations in the list, those stay whose operations came to be."""
    names: list[str] = []
    try:
        yield names
    finally:
        with panel().store.read() as session:
            for name in names:
                if session.get(Operation, name) is None:
                    transfers.remove(_folder(), name)


# --- for servers ---


@bp.get("/transfers/<operation_id>")
@bp.input(TicketQuery, location="query")
@bp.doc(responses=raw("application/octet-stream", "The checkpoint."))
@access(Access.TICKET)
def take_transfer(operation_id: str, query_data: TicketQuery) -> Response:
    """The checkpoint that was uploaded for an import"""
    panel().tickets.check(query_data.ticket, "take", operation_id)
    path = transfers.path_of(_folder(), operation_id)
    if not path.is_file():
        raise _gone(operation_id)
    return send_file(path, mimetype="application/octet-stream", etag=False)


@bp.put("/transfers/<operation_id>")
@bp.input(TicketQuery, location="query")
@bp.output(Blob, status_code=201)
@takes_archive
@access(Access.TICKET)
def hand_in_transfer(operation_id: str, query_data: TicketQuery) -> Response:
    """Hand in the checkpoint that an operation exports"""
    panel().tickets.check(query_data.ticket, "hand in", operation_id)
    limit = panel().settings.checkpoint_limit
    blobs.check_promised(request.content_length, limit, _SETTING)
    request.max_content_length = limit
    _check_wanted(operation_id)
    with blobs.received(request.stream, _folder(), limit, request.content_length, _SETTING) as upload:
        with panel().store.write() as session:
            _check_wanted(operation_id, session)
            transfers.remove(_folder(), operation_id)  # of a try whose end was not heard of
            upload.keep(operation_id)
        return answer(Blob(digest=upload.digest, size=upload.size), 201)


def _check_wanted(operation_id: str, session: Session | None = None) -> None:
    """Raise :class:`Conflict` unless the export is under way."""
    if session is None:
        with panel().store.read() as reading:
            _check_wanted(operation_id, reading)
        return
    operation = session.get(Operation, operation_id)
    if operation is None or operation.kind != "checkpoint.export" or operation.state != "running":
        raise Conflict("the export that this checkpoint is for is over", hint="export it again", code="wrong_state")


def _folder() -> Path:
    return panel().provider.transfer_dir
