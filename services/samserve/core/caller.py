"""The caller of the current call: its tenant, to whom work is accounted. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from samserve.core.plan import NO_PLAN, Plan

DEFAULT_TENANT = "public"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    Attributes:
        tenant: To whom its work is accounted.
        owner: Of the cache entries that it may use: the tenant, unless all tenants share theirs.
        plan: What the tenant may use.
        key_id: Public part of its API key, or what else names its credentials; empty for none.
    """

    tenant: str = DEFAULT_TENANT
    owner: str = DEFAULT_TENANT
    plan: Plan = NO_PLAN
    key_id: str = ""


_NOBODY = Caller()
_CALLER: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return the caller of the current call; the default one outside any call."""
    return _CALLER.get(_NOBODY)


@contextmanager
def acting_for(caller: Caller) -> Iterator[Caller]:
    """Make a caller the current one during the block, in it and in tasks that it creates."""
    token = _CALLER.set(caller)
    try:
        yield caller
    finally:
        _CALLER.reset(token)
