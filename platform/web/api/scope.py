"""Whose things a list is about: the caller's own, unless the provider asks for another's or everybody's."""

from __future__ import annotations

from pydantic import Field
from sqlalchemy.orm import Session

from hostler.core.errors import NotFound
from hostler.store.accounts import find_account
from hostler.store.models import Account
from hostler.web.paging import PageQuery

EVERYBODY = "*"


class ScopedQuery(PageQuery):
    """A list that the provider may see of others as well."""

    account: str | None = Field(default=None, max_length=63, description="for the provider: an account's name, or * for all of them")


def account_ids(session: Session, caller: Account, wanted: str | None) -> list[str] | None:
    """Ids of the accounts to look at; None means everybody's. Another's account does not exist for a tenant."""
    if wanted is None or wanted in (caller.name, caller.id):
        return [caller.id]
    if not caller.provider:
        raise NotFound(f"there is no account {wanted}", hint="leave account out to see your own")
    if wanted == EVERYBODY:
        return None
    return [find_account(session, wanted).id]
