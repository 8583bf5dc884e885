"""Masks as one-bit PNG files."""

from __future__ import annotations

import zlib

import numpy as np

from samserve.core.png import GREYSCALE, chunk, header
from samserve.core.runs import Runs, bits

COMPRESSION_LEVEL = 1  # zlib's fastest


def encode_png(runs: Runs) -> bytes:
    """Return a PNG with one bit per pixel, 1 on the mask."""
    # Each row begins with its filter: 0, none.
    rows = np.pad(bits(runs), ((0, 0), (1, 0)))

    return b"".join(
        [
            header(runs.width, runs.height, 1, GREYSCALE),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), COMPRESSION_LEVEL)),
            chunk(b"IEND", b""),
        ]
    )
