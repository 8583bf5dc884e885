"""Valid image files that cost far more to decode than to send."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def bmp_of_runs(side: int = 10_000) -> bytes:
    """41 kB: a BMP of `side` x `side` pixels whose rows are one run-length code each."""
    pixels = b"\x01\x00\x00\x00" * side + b"\x00\x01"
    palette = bytes(4 * 256)
    start = 14 + 40 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return header + info + palette + pixels


def webp_of_one_color(side: int = 10_000) -> bytes:
    """A few dozen bytes: a lossless WebP of `side` x `side` equal pixels."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 199)).save(out, "WEBP", lossless=True, method=0)
    return out.getvalue()


def jpeg_of_markers(megabytes: int = 30) -> bytes:
    """A small JPEG with millions of empty application markers before its pixels."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG")
    valid = out.getvalue()
    return valid[:2] + b"\xff\xe1\x00\x02" * (megabytes * 2**20 // 4) + valid[2:]


def png_of_chunks(megabytes: int = 30) -> bytes:
    """A small PNG with millions of empty private chunks before its pixels."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    valid = out.getvalue()
    chunk = struct.pack(">I", 0) + b"prIv" + struct.pack(">I", zlib.crc32(b"prIv"))
    return valid[:33] + chunk * (megabytes * 2**20 // len(chunk)) + valid[33:]


def deep_png(side: int = 6_000) -> bytes:
    """A 16-bit RGBA PNG of `side` x `side` equal pixels."""
    row = b"\x00" + bytes(8 * side)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def progressive_jpeg(side: int = 6_000) -> bytes:
    """A progressive JPEG of one color."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 199)).save(out, "JPEG", progressive=True)
    return out.getvalue()


def noise_png(seed: int, side: int = 256) -> bytes:
    """A small valid image that no other seed gives."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
