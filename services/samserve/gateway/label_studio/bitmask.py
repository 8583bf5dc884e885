"""Masks as Label Studio's bitmask regions store them: PNGs that are transparent off the object."""

from __future__ import annotations

import base64

from samserve.core.geometry import Size
from samserve.core.png import GREYSCALE, PALETTE, chunk, header

BLACK = bytes(3)
TRANSPARENT, OPAQUE = 0, 255


def bitmask_url(png: bytes, size: Size) -> str:
    """Return a data URL of a mask: opaque black on the object, transparent elsewhere.

    Its pixels are used as they are packed; only the meaning of their values 0 and 1 changes.

    Args:
        png: A grey PNG with one bit a pixel, as the decoder writes it.
        size: Of the image.
    """
    grey = header(size.width, size.height, 1, GREYSCALE)
    if not png.startswith(grey):
        raise ValueError(f"this is no PNG of {size} with one bit a pixel")

    coloured = b"".join(
        [
            header(size.width, size.height, 1, PALETTE),
            chunk(b"PLTE", 2 * BLACK),
            chunk(b"tRNS", bytes([TRANSPARENT, OPAQUE])),
            png[len(grey) :],
        ]
    )
    return f"data:image/png;base64,{base64.b64encode(coloured).decode('ascii')}"
