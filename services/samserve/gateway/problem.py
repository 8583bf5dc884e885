"""Every failure of a request as one sentence with an HTTP status, whatever the surface."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelNotFound,
    ModelVersionMismatch,
    NoConcepts,
    Overloaded,
    PermissionDenied,
    SamserveError,
    Unauthenticated,
    Unavailable,
    shorten,
)

LEFT = 499  # the caller left before the answer, as nginx counts it
LONGEST_MESSAGE = 500  # characters; pydantic's may hold a caller's values


# gRPC names the addresses of services that it cannot reach, which are nobody's business.
_ADDRESS = re.compile(r"\b(ipv4|ipv6|unix|dns):")
NOT_REACHED = "a service that is needed does not answer; try again later"


class BodyTooLarge(InvalidInput):
    """The request's body is over its limit."""


class BodyTooSlow(InvalidInput):
    """The request's body did not arrive in time."""


class UnsupportedBody(InvalidInput):
    """The body's type or coding is not one that the route reads."""


class NotImplementedHere(SamserveError):
    """The protocol has this request, but samserve has not."""


# The table between errors and HTTP: status and code.
_TABLE: dict[type[SamserveError], tuple[HTTPStatus, str]] = {
    BodyTooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BODY_TOO_LARGE"),
    BodyTooSlow: (HTTPStatus.REQUEST_TIMEOUT, "BODY_TOO_SLOW"),
    UnsupportedBody: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_BODY"),
    NotImplementedHere: (HTTPStatus.NOT_IMPLEMENTED, "NOT_IMPLEMENTED"),
    InvalidInput: (HTTPStatus.BAD_REQUEST, "INVALID_INPUT"),
    EmbeddingNotCached: (HTTPStatus.NOT_FOUND, "EMBEDDING_NOT_CACHED"),
    ModelNotFound: (HTTPStatus.NOT_FOUND, "MODEL_NOT_FOUND"),
    ModelVersionMismatch: (HTTPStatus.CONFLICT, "MODEL_VERSION_MISMATCH"),
    NoConcepts: (HTTPStatus.CONFLICT, "NO_CONCEPTS"),
    Overloaded: (HTTPStatus.TOO_MANY_REQUESTS, "OVERLOADED"),
    Unavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    DeadlinePassed: (HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_PASSED"),
    Unauthenticated: (HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED"),
    PermissionDenied: (HTTPStatus.FORBIDDEN, "PERMISSION_DENIED"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A failed request, before it is written in a surface's form.

    Attributes:
        status: Of HTTP.
        message: What was wrong, and what to do.
        code: The kind of failure, in capitals.
        field: The part of the request to correct; empty if there is none.
        retry_after: Seconds until another attempt is worth it; None if none is.
        allow: The methods that the route has, for a request with another one.
    """

    status: int
    message: str
    code: str
    field: str = ""
    retry_after: float | None = None
    allow: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of its answer."""
        headers = {"allow": self.allow} if self.allow else {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return headers


def problem_of(error: BaseException) -> Problem:
    """Return what to tell the caller.

    An exception of no known kind is a bug: it is logged here, and the caller learns only the id of
    the incident.
    """
    if isinstance(error, HTTPException) and isinstance(
        error.__cause__, SamserveError | ClientDisconnect
    ):
        error = error.__cause__  # FastAPI wraps what happens while it reads a body
    if isinstance(error, ClientDisconnect):
        return Problem(LEFT, "the caller left before the end of its request", "CALLER_LEFT")

    row = next((_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE), None)
    if row is not None:
        status, code = row
        hidden = isinstance(error, Unavailable) and _ADDRESS.search(str(error))
        message = NOT_REACHED if hidden else str(error)
        return Problem(
            status.value,
            message,
            code,
            field=getattr(error, "field", ""),
            retry_after=getattr(error, "retry_after", None),
        )

    if isinstance(error, RequestValidationError):
        return _invalid(error.errors()[0], located=True)
    if isinstance(error, ValidationError):
        return _invalid(error.errors()[0], located=False)
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        allow = (error.headers or {}).get("Allow", "")
        return Problem(status.value, str(error.detail), status.name, allow=allow)
    return _bug(error)


def _invalid(first: Any, located: bool) -> Problem:
    """Describe one of pydantic's errors; `located`: its place begins with "body" or the like."""
    field = _path(first["loc"][1:] if located else first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, str):
        message = f"{message}: {cause}"
    text = f"{field}: {message}" if field else message
    code = _TABLE[InvalidInput][1]
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY.value, text[:LONGEST_MESSAGE], code, field=field)


def _path(location: Iterable[str | int]) -> str:
    """Write the place of a value, as in `prompts[3].points`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{shorten(part)}"
    return path.removeprefix(".")


def _bug(error: BaseException) -> Problem:
    incident = secrets.token_hex(8)
    structlog.get_logger().error("internal error", incident=incident, exc_info=error)
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR.value, f"internal error, incident {incident}", "INTERNAL"
    )
