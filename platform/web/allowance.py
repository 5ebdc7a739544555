"""What a tenant may ask for: nothing above the plan. Pure."""

from __future__ import annotations

from typing import Any

from hostler.core.errors import Denied
from hostler.core.limits import IoRate, Limits, LimitsChange

#: None in a plan means that it promises nothing of this, not that it bounds nothing.
_PROMISES = frozenset({"memory_guarantee"})
#: Only the provider knows what these mean on a server.
_PROVIDERS = frozenset({"cpus"})


def check_within(change: LimitsChange, plan: Limits, plan_name: str) -> None:
    """Raise :class:`Denied` with code ``plan_exceeded`` for whatever ``change`` sets above ``plan``."""
    over = [name for name in sorted(change.model_fields_set) if _exceeds(name, getattr(change, name), getattr(plan, name))]
    if over:
        raise Denied(
            f"{', '.join(over)}: more than plan {plan_name} allows",
            hint="ask for at most what hostler plan list says, or choose a larger plan",
            code="plan_exceeded",
        )


def _exceeds(name: str, wanted: Any, allowed: Any) -> bool:
    if isinstance(wanted, IoRate):
        return any(_above(getattr(wanted, field), getattr(allowed, field)) for field in IoRate.model_fields)
    if name in _PROVIDERS:
        return bool(wanted != allowed)
    if name in _PROMISES:
        return (wanted or 0) > (allowed or 0)
    return _above(wanted, allowed)


def _above(wanted: float | None, allowed: float | None) -> bool:
    return allowed is not None and (wanted is None or wanted > allowed)
