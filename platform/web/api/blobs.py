"""Archives, for servers: each request carries a ticket for exactly one archive or one operation."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response, request, send_file
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from hostler.core.api import Blob
from hostler.core.errors import Conflict
from hostler.store.models import Image, Operation
from hostler.web import blobs
from hostler.web.answers import answer
from hostler.web.api.archives import removed_unless_used
from hostler.web.auth.access import Access, access
from hostler.web.openapi import raw, takes_archive
from hostler.web.panel import panel

bp = APIBlueprint("blobs", __name__, tag="Blobs")


class FetchQuery(BaseModel):
    """A ticket to fetch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ticket: str = Field(max_length=1000)


class StoreQuery(FetchQuery):
    """A ticket to hand in what an operation built."""

    operation: str = Field(max_length=26)


@bp.get("/blobs/<digest>")
@bp.input(FetchQuery, location="query")
@bp.doc(responses=raw("application/octet-stream", "The archive."))
@access(Access.TICKET)
def fetch_blob(digest: str, query_data: FetchQuery) -> Response:
    """An image's archive"""
    panel().tickets.check(query_data.ticket, "fetch", digest)
    return send_file(blobs.path_of(panel().settings.blob_dir, digest), mimetype="application/octet-stream", etag=False)


@bp.put("/blobs")
@bp.input(StoreQuery, location="query")
@bp.output(Blob, status_code=201)
@takes_archive
@access(Access.TICKET)
def store_blob(query_data: StoreQuery) -> Response:
    """Hand in the archive that an operation built

    The operation's image is noted to have these bytes at once, so that they are removed with it should the operation fail.
    """
    panel().tickets.check(query_data.ticket, "store", query_data.operation)
    limit, folder = panel().settings.image_limit, panel().settings.blob_dir
    request.max_content_length = limit
    with panel().store.read() as session:
        _image_of(session, query_data.operation)
    with blobs.received(request.stream, folder, limit, request.content_length) as upload, removed_unless_used(upload.digest):
        with panel().store.write() as session:
            image = _image_of(session, query_data.operation)
            image.digest, image.size = upload.digest, upload.size
            session.flush()
            upload.keep()
        return answer(Blob(digest=upload.digest, size=upload.size), 201)


def _image_of(session: Session, operation_id: str) -> Image:
    """The image that a build which is under way is for. Raises :class:`Conflict`."""
    operation = session.get(Operation, operation_id)
    image = session.get(Image, operation.target_id) if operation is not None and operation.kind == "image.build" else None
    if operation is None or image is None or operation.state != "running":
        raise Conflict("the build that this archive is for is over", hint="build the image again", code="wrong_state")
    return image
