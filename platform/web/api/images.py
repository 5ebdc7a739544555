"""Images: archives of root file systems, uploaded or built."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response, request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.api import ImageBuildIn, ImageOut, ImagePage, OperationOut
from hostler.core.names import Name
from hostler.operations import requests
from hostler.store.models import Image
from hostler.web import blobs
from hostler.web.answers import answer
from hostler.web.api.archives import removed_unless_used
from hostler.web.api.shapes import image_out
from hostler.web.auth.access import Access, access
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, accepted, change
from hostler.web.openapi import takes_archive
from hostler.web.paging import PageQuery, cut, split
from hostler.web.panel import panel

bp = APIBlueprint("images", __name__, tag="Images")


class ImageQuery(PageQuery):
    """Which images."""

    state: str | None = Field(default=None, max_length=16)
    name: str | None = Field(default=None, max_length=63, description="the beginning of the name")


class ImportQuery(BaseModel):
    """What the uploaded archive is to be called."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name


@bp.get("/images")
@bp.input(ImageQuery, location="query")
@bp.output(ImagePage)
def list_images(query_data: ImageQuery) -> Response:
    """The account's images and the provider's"""
    account = caller().account
    with panel().store.read() as session:
        query = select(Image).where((Image.account_id == account.id) | Image.account_id.is_(None))
        if query_data.state is not None:
            query = query.where(Image.state == query_data.state)
        if query_data.name is not None:
            query = query.where(Image.name.startswith(query_data.name, autoescape=True))
        rows, after = split(session.scalars(cut(query, query_data, Image)).all(), query_data)
        return answer(ImagePage(items=[image_out(row, account) for row in rows], next=after))


@bp.get("/images/<name>")
@bp.output(ImageOut)
def show_image(name: str) -> Response:
    """One image"""
    account = caller().account
    with panel().store.read() as session:
        return answer(image_out(requests.find_image(session, account, name), account))


@bp.post("/images")
@bp.input(ImportQuery, location="query")
@bp.output(OperationOut, status_code=202)
@takes_archive
def import_image(query_data: ImportQuery) -> Response:
    """Upload an archive and ask for an image of it

    The body is the archive itself: a tar of a root file system, or of an OCI layout or `docker save`, compressed or not.
    """
    limit, folder = panel().settings.image_limit, panel().settings.blob_dir
    request.max_content_length = limit
    _refuse_early(query_data.name)
    with blobs.received(request.stream, folder, limit, request.content_length) as upload, removed_unless_used(upload.digest):

        def act(session: Session) -> Done:
            operation = requests.import_image(session, caller().asker(), query_data.name, upload.digest, upload.size)
            upload.keep()
            return accepted(operation)

        return change(act, content=upload.digest)


def _refuse_early(name: str) -> None:
    """Refuse before gigabytes are read what would be refused after."""
    if request.headers.get("Idempotency-Key"):
        return  # the name may be taken by this very request's first try
    with panel().store.read() as session:
        requests.check_image_name(session, caller().account, name)


@bp.post("/images/build")
@bp.input(ImageBuildIn)
@bp.output(OperationOut, status_code=202)
@access(Access.PROVIDER)
def build_image(json_data: ImageBuildIn) -> Response:
    """Ask for an image to be made from a recipe"""
    return change(lambda session: accepted(requests.build_image(session, caller().asker(), json_data.name, json_data.recipe)))


@bp.delete("/images/<name>")
@bp.output(OperationOut, status_code=202)
def delete_image(name: str) -> Response:
    """Ask for the end of an image that no container uses"""
    return change(lambda session: accepted(requests.delete_image(session, caller().asker(), name)))
