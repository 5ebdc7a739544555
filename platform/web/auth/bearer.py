"""Bearer tokens (RFC 6750): before any view runs, the token is looked up by its digest and its account becomes the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import structlog
from flask import current_app, g, request
from sqlalchemy import update

from hostler.core.errors import Denied, Unauthenticated
from hostler.core.messages import now
from hostler.operations.requests import Asker
from hostler.store.accounts import authenticate, use_is_due
from hostler.store.models import Account, Token
from hostler.web.auth.access import Access, access_of
from hostler.web.panel import panel

log = structlog.get_logger()


@dataclass(frozen=True)
class Caller:
    """Whose token came with the request. ``secret`` is the token itself; it is neither stored nor logged."""

    account: Account
    token: Token
    secret: str

    def asker(self) -> Asker:
        """The caller as the reason trail's first entry; ``Hostler-Reason`` says why."""
        reason = request.headers.get("Hostler-Reason", "")[:500]
        return Asker(account=self.account, by=f"{self.account.name}/{self.token.name}", reason=reason)


def caller() -> Caller:
    """Who made this request."""
    return cast(Caller, g.caller)


def guard() -> None:
    """Run before every view: default-deny."""
    if request.endpoint is None:
        return  # no route: the router's 404 or 405 follows
    needed = access_of(current_app.view_functions[request.endpoint])
    if needed in (Access.PUBLIC, Access.TICKET):
        return
    g.caller = _authenticated()
    structlog.contextvars.bind_contextvars(account=g.caller.account.name)
    if needed is Access.PROVIDER and not g.caller.account.provider:
        log.warning("denied", path=request.path, method=request.method)
        raise Denied("only the provider may do this", hint="ask your provider", code="provider_only")


def _authenticated() -> Caller:
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("a token is needed", hint="send Authorization: Bearer …; hostler login URL --token … keeps it")
    store = panel().store
    with store.read() as session:
        token = authenticate(session, secret.strip())
        found = Caller(account=token.account, token=token, secret=secret.strip())
    if use_is_due(token):
        with store.write() as session:
            session.execute(update(Token).where(Token.id == token.id).values(used_at=now()))
    return found
