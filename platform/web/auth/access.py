"""Marks on views that say who may call them. A view without a mark asks for a token."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "hostler_access"


class Access(StrEnum):
    """Who may call a view."""

    PUBLIC = "public"
    """Anybody."""
    TICKET = "ticket"
    """Whoever holds a ticket for the thing; the view checks it."""
    ACCOUNT = "account"
    """Any account's token; the view looks at that account's things only."""
    PROVIDER = "provider"
    """A token of the provider's account."""


def access(level: Access) -> Callable[[F], F]:
    """Mark a view."""

    def mark(view: F) -> F:
        setattr(view, _MARK, level)
        return view

    return mark


def access_of(view: Callable[..., Any]) -> Access:
    """Who may call a view."""
    return Access(getattr(view, _MARK, Access.ACCOUNT))
