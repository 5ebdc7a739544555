"""Server-sent events (WHATWG HTML, section 9.2): bounded in time, with comments that keep proxies awake."""

from __future__ import annotations

import time
from collections.abc import Iterator

import structlog
from flask import Response, g
from pydantic import BaseModel

from hostler.core.errors import HostlerError
from hostler.web import problems

log = structlog.get_logger()

#: Seconds that a stream lives; whoever wants more asks again.
LIFETIME = 600.0
#: Seconds of silence after which a comment is sent.
HEARTBEAT = 10.0

#: One piece of a stream; None says that there is nothing new.
Frame = str | None


def event(name: str, body: BaseModel) -> str:
    """One event. JSON has no raw line break, so its data is one line."""
    return f"event: {name}\ndata: {body.model_dump_json()}\n\n"


def event_stream(frames: Iterator[Frame]) -> Response:
    """A response that sends ``frames`` as they come. An error in the middle is the last event, ``problem``."""
    response = Response(_beating(frames, g.get("request_id", "")), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _beating(frames: Iterator[Frame], request_id: str) -> Iterator[str]:
    yield ": hostler\n\n"  # the headers leave at once
    spoke = time.monotonic()
    try:
        for frame in frames:
            if frame is not None:
                yield frame
            elif time.monotonic() - spoke < HEARTBEAT:
                continue
            else:
                yield ": still here\n\n"
            spoke = time.monotonic()
    except HostlerError as error:
        yield event("problem", problems.problem(error).model_copy(update={"request": request_id}))
    except Exception:
        log.exception("bug in a stream", request=request_id)
        yield event("problem", problems.internal(request_id))
