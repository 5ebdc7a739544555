"""Pages: rows in order of their creation, cut by a cursor that means "after this row", so that rows that come and go move nothing."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, and_, or_

from hostler.core.api import PAGE_LIMIT
from hostler.core.errors import Invalid


class PageQuery(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=100, ge=1, le=PAGE_LIMIT)
    after: str | None = Field(default=None, max_length=200, description="the cursor that the former page gave as next")


class Row(Protocol):
    """What a cursor is made from."""

    id: Any
    created_at: Any


R = TypeVar("R", bound=Row)


def cursor(created_at: datetime, row_id: str) -> str:
    """The cursor after a row."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def _read(text: str) -> tuple[datetime, str]:
    try:
        padded = text + "=" * (-len(text) % 4)
        stamp, _, row_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").partition("|")
        when = datetime.fromisoformat(stamp)
    except (binascii.Error, ValueError) as error:
        raise bad_cursor() from error
    if when.tzinfo is None or not 1 <= len(row_id) <= 26 or not row_id.isalnum() or not 1970 <= when.year <= 9000:
        raise bad_cursor()
    return when, row_id


def bad_cursor() -> Invalid:
    """What a cursor that is none of ours is answered with."""
    return Invalid("this is not a cursor of ours", hint="give the former page's next, unchanged, or leave after out", code="bad_cursor")


def cut(query: Select[Any], page: PageQuery, model: Any, *, newest_first: bool = False) -> Select[Any]:
    """The query for one page, and one row more, which tells whether another follows."""
    at: ColumnElement[datetime] = model.created_at
    key: ColumnElement[str] = model.id
    if page.after is not None:
        when, row_id = _read(page.after)
        beyond = at < when if newest_first else at > when
        beyond_id = key < row_id if newest_first else key > row_id
        query = query.where(or_(beyond, and_(at == when, beyond_id)))
    order = (at.desc(), key.desc()) if newest_first else (at, key)
    return query.order_by(*order).limit(page.limit + 1)


def split(rows: Sequence[R], page: PageQuery) -> tuple[Sequence[R], str | None]:
    """The page's rows, and the cursor of the page that follows."""
    if len(rows) <= page.limit:
        return rows, None
    last = rows[page.limit - 1]
    return rows[: page.limit], cursor(last.created_at, last.id)
