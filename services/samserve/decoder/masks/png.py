"""Masks as one-bit PNG files."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from samserve.core.runs import Runs, bits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BIT_DEPTH = 1
GREYSCALE = 0
COMPRESSION_LEVEL = 1  # zlib's fastest


def encode_png(runs: Runs) -> bytes:
    """Return a PNG with one bit per pixel, 1 on the mask. Source: the PNG specification."""
    # Each row begins with its filter: 0, none.
    rows = np.pad(bits(runs), ((0, 0), (1, 0)))

    # The last three fields of the header: deflate, adaptive filters, not interlaced.
    header = struct.pack(">IIBBBBB", runs.width, runs.height, BIT_DEPTH, GREYSCALE, 0, 0, 0)
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), COMPRESSION_LEVEL)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
