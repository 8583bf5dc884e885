"""Polygons to masks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samserve.core.arrays import Doubles, Floats
from samserve.core.geometry import Size
from samserve.core.runs import Runs

MOST_CROSSINGS = 8_000_000  # of columns and edges of one mask


class TooManyCrossings(ValueError):
    """Polygons cross the columns of the image too often."""


def fill(rings: Sequence[Floats], size: Size) -> Runs:
    """Return the pixels whose centres are inside an odd number of the rings.

    Args:
        rings: Closed lines, [N, 2] each, (x, y) in pixels with pixel corners at whole numbers. A
            ring may leave the image; what is outside is cut off.
        size: Of the image.

    Raises:
        TooManyCrossings: The rings are too long for the memory that filling takes.
    """
    begin, end = _edges(rings)

    # The columns whose centres lie between an edge's ends, and one entry for each of them.
    x_ends = np.sort(np.stack([begin[:, 0], end[:, 0]]), axis=0)
    first, last = np.clip(np.ceil(x_ends - 0.5), 0, size.width).astype(np.int64)
    counts = last - first
    if counts.sum() > MOST_CROSSINGS:
        raise TooManyCrossings(
            f"the polygons cross {counts.sum():,} columns; the limit is {MOST_CROSSINGS:,}"
        )
    edge = np.repeat(np.arange(len(begin)), counts)
    starts = np.cumsum(counts) - counts
    column = np.arange(len(edge)) + np.repeat(first - starts, counts)

    # The first row below each crossing. Two crossings at one pixel cancel each other.
    (x, y), (dx, dy) = begin[edge].T, (end - begin)[edge].T
    at = y + (column + 0.5 - x) * dy / np.where(dx == 0, 1, dx)
    row = np.clip(np.ceil(at - 0.5), 0, size.height).astype(np.int64)
    changes, times = np.unique(column * size.height + row, return_counts=True)
    changes = changes[times % 2 == 1]
    return Runs(size.height, size.width, changes[changes < size.pixels])


def _edges(rings: Sequence[Floats]) -> tuple[Doubles, Doubles]:
    """Return the edges of all rings: begins and ends, [N, 2] each."""
    none = np.zeros((0, 2))
    begins = [ring.astype(np.float64) for ring in rings]
    return (
        np.concatenate([none, *begins]),
        np.concatenate([none, *(np.roll(ring, -1, 0) for ring in begins)]),
    )
