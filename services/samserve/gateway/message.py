"""Failures as a message alone, which the clients of several labeling tools read."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response
from pydantic import BaseModel

from samserve.gateway.problem import Problem

STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 501, 503, 504)


class Message(BaseModel):
    """A failure."""

    message: str


MESSAGES: dict[int | str, dict[str, Any]] = {status: {"model": Message} for status in STATUSES}


def write_message(problem: Problem) -> Response:
    """Answer a failure as {"message": ...}."""
    return Response(
        orjson.dumps({"message": problem.message}),
        problem.status,
        headers=problem.headers,
        media_type="application/json",
    )
