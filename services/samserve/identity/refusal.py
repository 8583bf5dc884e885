"""How a refused call is answered, in the form that its client reads. Pure."""

from __future__ import annotations

import json
import math

from samserve.core.errors import (
    Overloaded,
    PermissionDenied,
    SamserveError,
    Unauthenticated,
    Unavailable,
)

STATUS = {Unauthenticated: 401, PermissionDenied: 403, Overloaded: 429, Unavailable: 503}
TITLES = {
    401: "Unauthorized",
    403: "Forbidden",
    429: "Too Many Requests",
    503: "Service Unavailable",
}
CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "OVERLOADED", 503: "UNAVAILABLE"}

MESSAGE_ROUTES = ("/sam/", "/sam2/", "/sam3/", "/model/", "/info", "/api/function", "/cvat/")
XANYLABELING = "/xanylabeling/"


def status_of(error: SamserveError) -> int:
    """Return the status of HTTP."""
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


def headers_of(error: SamserveError, route: str) -> dict[str, str]:
    """Return the answer's headers."""
    plain = route.startswith((*MESSAGE_ROUTES, XANYLABELING))
    headers = {"content-type": "application/json" if plain else "application/problem+json"}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="samserve"'
    if isinstance(error, Overloaded | Unavailable):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return headers


def body_of(error: SamserveError, route: str) -> str:
    """Return the answer's body: as the gateway answers on this route."""
    status, message = status_of(error), str(error)
    if route.startswith(XANYLABELING):
        code = CODES[status]
        return json.dumps({"success": False, "error": {"code": code, "message": message}})
    if route.startswith(MESSAGE_ROUTES):
        return json.dumps({"message": message})
    return json.dumps(
        {
            "type": "about:blank",
            "title": TITLES[status],
            "status": status,
            "detail": message,
            "code": CODES[status],
        }
    )
