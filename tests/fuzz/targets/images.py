"""Any bytes are an image, or are refused as invalid input."""

from __future__ import annotations

from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame
from samserve.core.image import Limits, frame_image

MOST_BYTES = 4096
FRAME = Frame(64)
LIMITS = Limits(max_bytes=MOST_BYTES, max_pixels=250_000, max_aspect=64)


def check(data: bytes) -> None:
    try:
        framed = frame_image(data, FRAME, LIMITS)
    except InvalidInput as problem:
        assert problem.field == "data"
        return

    assert framed.pixels.shape == (64, 64, 3)
    assert 1 <= framed.valid.width <= 64
    assert 1 <= framed.valid.height <= 64
    assert framed.size.pixels <= LIMITS.max_pixels
