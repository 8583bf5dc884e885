"""Writes pixels as PNG, without Pillow."""

from __future__ import annotations

import zlib

import numpy as np

from samserve.core.arrays import Bytes
from samserve.core.png import RGB, chunk, header

UP = 2  # the filter: each byte less the one above it
LEVEL = 1  # of zlib; higher ones cost several times the time


def encode_png(pixels: Bytes) -> bytes:
    """Return pixels uint8 [H, W, 3] RGB as a PNG, without loss."""
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = UP
    values = rows[:, 1:]
    values[:] = pixels.reshape(height, 3 * width)
    values[1:] -= pixels.reshape(height, 3 * width)[:-1]

    return b"".join(
        (
            header(width, height, 8, RGB),
            chunk(b"IDAT", zlib.compress(rows.data, LEVEL)),
            chunk(b"IEND", b""),
        )
    )
