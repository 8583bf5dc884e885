"""JSON bodies of bounded parts, since parsing turns two bytes into an object of a hundred."""

from __future__ import annotations

from typing import Any

import orjson

from samserve.core.errors import InvalidInput
from samserve.gateway.problem import BodyTooLarge

MARKS = (b",", b"[", b"{")  # each value but the outermost follows one of them


def parse_json(body: bytes, most_parts: int) -> Any:
    """Parse a body.

    Strings are counted as if their commas and brackets were values. Base64 has none.

    Args:
        body: As it came.
        most_parts: Limit of its values.

    Raises:
        BodyTooLarge: It has more values.
        InvalidInput: It is no JSON, or nested too deeply.
    """
    if len(body) > most_parts:
        parts = sum(body.count(mark) for mark in MARKS)
        if parts > most_parts:
            raise BodyTooLarge(
                "body", f"body: {parts:,} values in the JSON; the limit is {most_parts:,}"
            )
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise InvalidInput("body", f"body: invalid JSON: {problem}") from problem
