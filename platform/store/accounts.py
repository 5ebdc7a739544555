"""Accounts and tokens."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from hostler.core.errors import Conflict, NotFound, Unauthenticated
from hostler.core.messages import now
from hostler.core.names import check_name
from hostler.store.models import Account, Token

_PREFIX = "hst_"
#: A token's last use is written down at most this often.
_USE_GRAIN = timedelta(minutes=5)


def create_account(session: Session, name: str, *, provider: bool = False) -> Account:
    """A new account. Raises :class:`Conflict` when the name is taken."""
    check_name(name)
    if session.scalar(select(Account.id).where(Account.name == name)):
        raise Conflict(f"account {name} exists already", hint="choose another name", code="name_taken")
    account = Account(name=name, provider=provider)
    session.add(account)
    session.flush()
    return account


def find_account(session: Session, name: str) -> Account:
    """By name or id. Raises :class:`NotFound`."""
    account = session.scalar(select(Account).where((Account.name == name) | (Account.id == name)))
    if account is None:
        raise NotFound(f"there is no account {name}", hint="list them with GET /v1/accounts")
    return account


def digest_of(secret: str) -> str:
    """What is kept of a token: SHA-256 suffices for 160 random bits, as there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(session: Session, account: Account, name: str, *, lifetime: timedelta | None = None) -> tuple[Token, str]:
    """A new token and its secret, which is told only this once."""
    secret = _PREFIX + secrets.token_hex(20)
    expires: datetime | None = now() + lifetime if lifetime else None
    token = Token(account_id=account.id, name=name, digest=digest_of(secret), expires_at=expires)
    session.add(token)
    session.flush()
    return token, secret


def authenticate(session: Session, secret: str) -> Token:
    """The token of a secret, its account loaded. Raises :class:`Unauthenticated`, the same for unknown and expired ones."""
    token = session.scalar(select(Token).options(joinedload(Token.account)).where(Token.digest == digest_of(secret)))
    if token is None or (token.expires_at is not None and token.expires_at < now()):
        raise Unauthenticated("the token is unknown or has expired", hint="log in with a valid token: hostler login URL --token …")
    return token


def use_is_due(token: Token) -> bool:
    """Whether the token's last use should be written down now."""
    return token.used_at is None or now() - token.used_at > _USE_GRAIN
