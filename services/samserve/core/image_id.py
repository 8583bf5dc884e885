"""The id of an image: the hash of its encoded bytes. Pure."""

from __future__ import annotations

import hashlib
import re

from samserve.core.errors import InvalidInput, shorten

_IMAGE_ID = re.compile(r"[0-9a-f]{64}")


def image_id(data: bytes) -> str:
    """Return the SHA-256 of the encoded bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_image_id(value: str) -> str:
    """Return `value` if it can be an image id.

    Raises:
        InvalidInput: It is not 64 lower-case hexadecimal digits.
    """
    if not _IMAGE_ID.fullmatch(value):
        raise InvalidInput(
            "image_id",
            "invalid image id: send the SHA-256 of the image's bytes, "
            "64 lower-case hexadecimal digits",
        )
    return value


def check_expected(value: str, expected: str) -> None:
    """Compare an image's id with the one that the caller expects; empty means any.

    Raises:
        InvalidInput: They differ.
    """
    if expected not in ("", value):
        raise InvalidInput(
            "expected_image_id",
            f"the image's id is {value}, not {shorten(expected)}; send the bytes that were hashed",
        )
