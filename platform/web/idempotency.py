"""Changes: one transaction, done once however often it is asked with the same ``Idempotency-Key``, then the control worker is told.

The key's row is written in the transaction that acts. So two requests with one key cannot both act: the second waits for the
first one's transaction and then finds its answer; and a panel that dies in between leaves neither the key nor the change.
An answer that holds a secret is kept encrypted with the caller's token, which the store does not know.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from cryptography.fernet import Fernet, InvalidToken
from flask import Response, request
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hostler.core.errors import Conflict, HostlerError, Invalid, Unavailable
from hostler.store.engine import ATTEMPTS
from hostler.store.models import IdempotencyKey, Operation
from hostler.web import problems
from hostler.web.api.shapes import operation_out
from hostler.web.auth.bearer import caller
from hostler.web.panel import panel

log = structlog.get_logger()

#: Seconds without a try after the broker was found to be away.
BROKER_REST = 1.0

_KEY = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True)
class Done:
    """What a change answers. ``look_at``: the operation that the control worker is told of after the commit."""

    body: BaseModel | None
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    look_at: str | None = None


def accepted(operation: Operation) -> Done:
    """202 with an operation."""
    shown = operation_out(operation, operator=caller().account.provider)
    return Done(shown, 202, {"Location": f"/v1/operations/{operation.id}"}, look_at=operation.id)


def change(act: Callable[[Session], Done], *, content: str | None = None, secret: bool = False) -> Response:
    """Run ``act`` in a transaction and answer what it says.

    ``content`` stands for the request's body when it was streamed; ``secret``: the answer must not be kept readable.
    A transaction that lost a race for a unique value runs again, so ``act`` does nothing but talk to the session.
    """
    key = _key()
    for attempt in range(ATTEMPTS):
        try:
            with panel().store.write() as session:
                if key is None:
                    done = act(session)
                    kept = None
                else:
                    done, kept = _keyed(session, act, key, content, secret)
        except IntegrityError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if isinstance(kept, Response):
            return kept
        if done.look_at is not None:
            tell(done.look_at)
        return _response(done)
    raise AssertionError("unreachable")


def tell(operation: str) -> None:
    """Say that an operation waits. Without a broker the row waits for the control worker's next tick.

    A broker that was just found to be away is left alone for a second, so that requests go on being answered at once.
    """
    here = panel()
    if time.monotonic() - here.broker_lost < BROKER_REST:
        return
    try:
        here.broker.look_at(operation)
    except Unavailable as error:
        here.broker_lost = time.monotonic()
        log.warning("operation not announced", operation=operation, reason=error.message)


def _key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise Invalid("this Idempotency-Key cannot be used", hint="send 1 to 200 visible ASCII characters, such as a UUID", code="bad_idempotency_key")
    return key


def _keyed(session: Session, act: Callable[[Session], Done], key: str, content: str | None, secret: bool) -> tuple[Done, Response | None]:
    account, digest = caller().account.id, _digest(content)
    kept = session.get(IdempotencyKey, (account, key))
    if kept is not None:
        return Done(None, kept.status), _again(kept, digest)
    row = IdempotencyKey(account_id=account, key=key, request_digest=digest)
    session.add(row)
    session.flush()  # where a twin is at work in another process, this waits for it
    done = _acted(session, act)
    text = "" if done.body is None else done.body.model_dump_json()
    row.status = done.status
    row.body = {"text": _seal().encrypt(text.encode()).decode() if secret else text, "sealed": secret, "headers": done.headers}
    return done, None


def _acted(session: Session, act: Callable[[Session], Done]) -> Done:
    """Act; a refusal is an answer as well, and is kept as one, with all that led to it undone."""
    try:
        with session.begin_nested():
            done = act(session)
            session.flush()
            return done
    except HostlerError as error:
        if error.http_status >= 500:
            raise
        return Done(problems.problem(error), error.http_status, {"Content-Type": problems.MEDIA_TYPE})


def _again(kept: IdempotencyKey, digest: str) -> Response:
    if kept.request_digest != digest:
        raise Invalid("this Idempotency-Key was used for another request", hint="use a new key for a new request", code="idempotency_mismatch")
    body: dict[str, Any] = kept.body
    text = body["text"]
    if body["sealed"]:
        try:
            text = _seal().decrypt(text.encode()).decode()
        except InvalidToken as error:
            raise Conflict("the answer to this key can be told to the token that asked only", hint="use that token, or a new key", code="sealed") from error
    response = Response(text, status=kept.status, mimetype="application/json")
    response.headers.update(body["headers"])
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _seal() -> Fernet:
    key = hashlib.sha256(b"hostler idempotency\0" + caller().secret.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))


def _digest(content: str | None) -> str:
    body = content.encode() if content is not None else request.get_data(cache=True)
    said = json.dumps([request.method, request.path, sorted(request.args.items(multi=True))]).encode()
    return hashlib.sha256(said + b"\0" + body).hexdigest()


def _response(done: Done) -> Response:
    if done.body is None:
        return Response(status=done.status, headers=done.headers)
    response = Response(done.body.model_dump_json(), status=done.status, mimetype="application/json")
    response.headers.update(done.headers)
    return response
