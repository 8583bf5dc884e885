"""An image's id: the hash of its encoded bytes. Pure."""

from __future__ import annotations

import hashlib
import re

from samserve.core.errors import InvalidInput

_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


def image_id(data: bytes) -> str:
    """SHA-256 of the encoded bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_image_id(value: str) -> str:
    """`value`, if it can be an image id; InvalidInput otherwise."""
    if not _IMAGE_ID.fullmatch(value):
        raise InvalidInput(
            "image_id",
            "an image id is the SHA-256 of the image's bytes: 64 lower-case hexadecimal digits",
        )
    return value


def check_expected(value: str, expected: str) -> None:
    """Raise InvalidInput if a caller named the id it expects, and the image has another."""
    if expected not in ("", value):
        problem = f"the image's id is {value}, not {expected}: its bytes are others than the caller hashed"
        raise InvalidInput("expected_image_id", problem)
