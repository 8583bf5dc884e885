"""The id of a request, which its log lines bear in every service that takes part in it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

import structlog

REQUEST_ID_KEY = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,64}")


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the caller's `x-request-id`, or a new id if it is missing or unfit for a log."""
    sent = next((str(value) for key, value in metadata if key == REQUEST_ID_KEY), "")
    return sent if _ID.fullmatch(sent) else secrets.token_hex(8)


def request_id_here() -> tuple[tuple[str, str], ...]:
    """Return metadata that carries the current request's id to a called service, if it has one."""
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    return ((REQUEST_ID_KEY, request_id),) if request_id else ()
