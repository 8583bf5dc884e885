"""The parts of PNG files. Source: the PNG specification. Pure."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREYSCALE, RGB, PALETTE = 0, 2, 3  # colour types


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, bits: int, colour: int) -> bytes:
    """Return the signature and the first chunk: deflate, adaptive filters, not interlaced.

    Args:
        width: In pixels, likewise the height.
        height: In pixels.
        bits: Of a sample.
        colour: Colour type.
    """
    return SIGNATURE + chunk(b"IHDR", struct.pack(">II5B", width, height, bits, colour, 0, 0, 0))
