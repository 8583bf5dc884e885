"""Images as base64 in JSON, as labeling tools send them."""

from __future__ import annotations

import asyncio
import base64
import binascii

from samserve.core.errors import InvalidInput

LONGEST_PREFIX = 100  # characters of "data:image/...;base64,"


async def decode_image(text: str, field: str, most: int) -> bytes:
    """Return the encoded image, decoded in a thread.

    Args:
        text: Base64, with or without the prefix of a data URL. Line breaks are ignored.
        field: That holds it, for errors.
        most: Bytes of an image.

    Raises:
        InvalidInput: The text is empty, too long or no base64.
    """
    return await asyncio.to_thread(decode_base64, _without_prefix(text), field, most)


def decode_base64(text: str, field: str, most: int) -> bytes:
    """Return the bytes of base64. Raises as `decode_image`."""
    size = 3 * len(text) // 4 - text[-2:].count("=")
    if size > most:
        raise InvalidInput(field, f"{field}: {size:,} bytes; the limit is {most:,}")
    try:
        data = base64.b64decode(text)
    except (binascii.Error, ValueError) as problem:
        raise InvalidInput(field, f"{field}: invalid base64: {problem}") from problem
    if not data:
        raise InvalidInput(field, f"{field}: empty; send the file's bytes as base64")
    return data


def _without_prefix(text: str) -> str:
    if not text.startswith("data:"):
        return text
    comma = text.find(",", 0, LONGEST_PREFIX)
    return text[comma + 1 :]
