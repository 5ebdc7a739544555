"""One thing that was looked at."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Status(StrEnum):
    """``lacks``: Hostler works, without what the detail names. ``blocks``: it does not work."""

    OK = "ok"
    LACKS = "lacks"
    BLOCKS = "blocks"


class Finding(BaseModel):
    """What was found of one thing, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    area: str
    what: str
    status: Status
    detail: str = ""
    remedy: str = ""
