"""Writes pixels as PNG, without Pillow."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from samserve.core.arrays import Bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB_8 = (8, 2, 0, 0, 0)  # bits, colour type, compression, filter, interlacing
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
            SIGNATURE,
            _chunk(b"IHDR", struct.pack(">2I5B", width, height, *RGB_8)),
            _chunk(b"IDAT", zlib.compress(rows.data, LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
