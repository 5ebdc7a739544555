"""Tokens: an account's keys to the API."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.api import TokenIn, TokenMade, TokenPage
from hostler.core.errors import NotFound
from hostler.store.accounts import create_token as add_token
from hostler.store.accounts import find_account
from hostler.store.models import Account, Token
from hostler.web.answers import answer
from hostler.web.api.scope import ScopedQuery, account_ids
from hostler.web.api.shapes import token_out
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, change
from hostler.web.paging import cut, split
from hostler.web.panel import panel

bp = APIBlueprint("tokens", __name__, tag="Tokens")


@bp.get("/tokens")
@bp.input(ScopedQuery, location="query")
@bp.output(TokenPage)
def list_tokens(query_data: ScopedQuery) -> Response:
    """The account's tokens, without their secrets"""
    with panel().store.read() as session:
        ids = account_ids(session, caller().account, query_data.account)
        query = select(Token) if ids is None else select(Token).where(Token.account_id.in_(ids))
        rows, after = split(session.scalars(cut(query, query_data, Token)).all(), query_data)
        return answer(TokenPage(items=[token_out(row, caller().token.id) for row in rows], next=after))


@bp.post("/tokens")
@bp.input(TokenIn)
@bp.output(TokenMade, status_code=201)
def create_token(json_data: TokenIn) -> Response:
    """Make a token

    Its secret is told in this answer and never again. The provider may make one for another account.
    """

    def act(session: Session) -> Done:
        account = _whose(session, json_data.account)
        token, secret = add_token(session, account, json_data.name, lifetime=json_data.duration)
        shown = token_out(token, caller().token.id)
        return Done(TokenMade(**shown.model_dump(), secret=secret), 201, {"Location": f"/v1/tokens/{token.id}"})

    return change(act, secret=True)


def _whose(session: Session, name: str | None) -> Account:
    own = caller().account
    if name is None or name in (own.name, own.id):
        return own
    if not own.provider:
        raise NotFound(f"there is no account {name}", hint="leave account out to make a token of your own")
    return find_account(session, name)


@bp.delete("/tokens/<token_id>")
@bp.output({}, status_code=204)
def revoke_token(token_id: str) -> Response:
    """Revoke a token: it opens nothing from now on"""

    def act(session: Session) -> Done:
        token = session.get(Token, token_id)
        if token is None or not (token.account_id == caller().account.id or caller().account.provider):
            raise NotFound(f"there is no token {token_id}", hint="hostler token list shows yours")
        session.delete(token)
        return Done(None, 204)

    return change(act)
