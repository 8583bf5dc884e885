"""Masks as CVAT stores them: the runs of the rows inside the mask's box. Pure.

The first run is background and may be 0. After the runs come the box's left, top, right and bottom
pixels, the last two inclusive. An empty mask is one background pixel at the top left, as cvat-sdk
writes it.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Bytes
from samserve.core.runs import Runs, box, crop, dense, row_changes

EMPTY = [1, 0, 0, 0, 0]


def encode_runs(mask: Runs) -> list[int]:
    """Return a mask's row runs inside its box, and the box; the pixels are never allocated."""
    around = box(mask)
    if not around.x1:
        return EMPTY.copy()
    part = crop(mask, around)
    lengths = np.diff(row_changes(part), prepend=0, append=part.height * part.width)
    return [*lengths.tolist(), around.x0, around.y0, around.x1 - 1, around.y1 - 1]


def write_pixels(mask: Runs) -> bytes:
    """Return a mask's pixels inside its box, 0 or 1 row by row, and the box, as a JSON list."""
    around = box(mask)
    if not around.x1:
        return b"[0,0,0,0,0]"
    pixels = dense(crop(mask, around)).astype(np.uint8).ravel()

    text: Bytes = np.full((len(pixels), 2), ord(","), np.uint8)
    text[:, 0] = pixels + ord("0")
    corners = f"{around.x0},{around.y0},{around.x1 - 1},{around.y1 - 1}"
    return b"[" + text.tobytes() + corners.encode() + b"]"


def write_confidence(predicted_iou: float) -> str:
    """Return the value of the attribute beside a mask, from 0 to 1."""
    return f"{min(max(predicted_iou, 0.0), 1.0):.3f}"


def write_rows(mask: Runs) -> bytes:
    """Return all pixels as JSON rows of 0 and 1: [[0,1,...],...]."""
    pixels = dense(mask).astype(np.uint8)

    # Each row is "[" and a digit with "," for each pixel, of which the last becomes "],".
    text: Bytes = np.empty((mask.height, 2 * mask.width + 2), np.uint8)
    text[:, 0] = ord("[")
    text[:, 1:-1:2] = pixels + ord("0")
    text[:, 2:-1:2] = ord(",")
    text[:, -2] = ord("]")
    text[:, -1] = ord(",")
    return b"[" + text.tobytes()[:-1] + b"]"
