"""Accounts: the provider makes them; everybody sees their own."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from hostler.core.api import AccountIn, AccountOut, AccountPage, AccountShareIn
from hostler.store.accounts import create_account as add_account
from hostler.store.accounts import find_account
from hostler.store.models import Account
from hostler.web.answers import answer
from hostler.web.api.shapes import account_out
from hostler.web.auth.access import Access, access
from hostler.web.auth.bearer import caller
from hostler.web.idempotency import Done, change
from hostler.web.paging import PageQuery, cut, split
from hostler.web.panel import panel

bp = APIBlueprint("accounts", __name__, tag="Accounts")


@bp.get("/account")
@bp.output(AccountOut)
def show_own_account() -> Response:
    """The account of this token"""
    return answer(account_out(caller().account))


@bp.get("/accounts")
@bp.input(PageQuery, location="query")
@bp.output(AccountPage)
@access(Access.PROVIDER)
def list_accounts(query_data: PageQuery) -> Response:
    """All accounts, the oldest first"""
    with panel().store.read() as session:
        rows, after = split(session.scalars(cut(select(Account), query_data, Account)).all(), query_data)
        return answer(AccountPage(items=[account_out(row) for row in rows], next=after))


@bp.get("/accounts/<name>")
@bp.output(AccountOut)
@access(Access.PROVIDER)
def show_account(name: str) -> Response:
    """One account, by name or id"""
    with panel().store.read() as session:
        return answer(account_out(find_account(session, name)))


@bp.post("/accounts")
@bp.input(AccountIn)
@bp.output(AccountOut, status_code=201)
@access(Access.PROVIDER)
def create_account(json_data: AccountIn) -> Response:
    """Make an account"""

    def act(session: Session) -> Done:
        account = add_account(session, json_data.name, provider=json_data.provider)
        return Done(account_out(account), 201, {"Location": f"/v1/accounts/{account.name}"})

    return change(act)


@bp.post("/accounts/<name>/share")
@bp.input(AccountShareIn)
@bp.output(AccountOut)
@access(Access.PROVIDER)
def share_account(name: str, json_data: AccountShareIn) -> Response:
    """Set an account's share of processors"""

    def act(session: Session) -> Done:
        account = find_account(session, name)
        account.cpu_weight = json_data.cpu_weight
        return Done(account_out(account), 200)

    return change(act)
