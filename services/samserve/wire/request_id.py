"""The id by which a request's log lines are found, in every service that has a part in it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable

import structlog

REQUEST_ID_KEY = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,128}")


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The caller's: metadata `x-request-id`; a new one if there is none, or none fit for a log."""
    sent = next((str(value) for key, value in metadata if key == REQUEST_ID_KEY), "")
    return sent if _ID.fullmatch(sent) else secrets.token_hex(8)


def request_id_here() -> tuple[tuple[str, str], ...]:
    """Metadata that carries the id of the request being answered to a service that is asked; empty if there is none."""
    name = structlog.contextvars.get_contextvars().get("request_id", "")
    return ((REQUEST_ID_KEY, name),) if name else ()
