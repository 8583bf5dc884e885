"""Answers of the REST interface: JSON by orjson, and failures as problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Response

from samserve.gateway.problem import Problem


def json_response(content: Any, status: int = HTTPStatus.OK) -> Response:
    """Answer with JSON. FastAPI's own way would check and copy every polygon once more."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def problem_json(problem: Problem) -> dict[str, Any]:
    """Write a failure as problem details."""
    details: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
    }
    if problem.field:
        details["field"] = problem.field
    return details


def problem_response(problem: Problem) -> Response:
    """Answer a failure as problem details."""
    return Response(
        orjson.dumps(problem_json(problem)),
        problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )
