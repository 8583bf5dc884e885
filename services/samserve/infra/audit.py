"""Audit lines: who did what, when, and with which result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from samserve.core.caller import current_caller

log = structlog.get_logger()


@contextmanager
def audited(action: str, **what: object) -> Iterator[dict[str, object]]:
    """Log an action of the current caller once it is done or has failed.

    The line is logged at the level of errors, so that no level leaves it out. The block may add
    fields to the dictionary.
    """
    caller = current_caller()
    found: dict[str, object] = {}
    result = "failed"
    try:
        yield found
        result = "done"
    except BaseException as problem:
        found["problem"] = type(problem).__name__
        raise
    finally:
        log.error(
            "audit",
            action=action,
            tenant=caller.tenant,
            key_id=caller.key_id,
            result=result,
            **what,
            **found,
        )
