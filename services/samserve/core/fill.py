"""Polygons to masks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samserve.core.arrays import Doubles, Floats, Ints
from samserve.core.geometry import Size
from samserve.core.runs import Runs

MOST_CROSSINGS = 1_000_000  # of columns and edges of one mask


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
    first, counts = _columns(begin, end, size.width)
    check_crossings(int(counts.sum()), MOST_CROSSINGS)

    # One entry for each column of an edge.
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


def count_crossings(rings: Sequence[Floats], size: Size) -> int:
    """Return how many columns of the image the rings cross, which is the work to fill them."""
    return int(_columns(*_edges(rings), size.width)[1].sum())


def check_crossings(count: int, most: int) -> None:
    """Raise TooManyCrossings if there are more than `most`."""
    if count > most:
        raise TooManyCrossings(f"the polygons cross {count:,} columns; the limit is {most:,}")


def _columns(begin: Doubles, end: Doubles, width: int) -> tuple[Ints, Ints]:
    """Return the first column whose centre lies between an edge's ends, and how many they are."""
    x_ends = np.sort(np.stack([begin[:, 0], end[:, 0]]), axis=0)
    first, last = np.clip(np.ceil(x_ends - 0.5), 0, width).astype(np.int64)
    return first, last - first


def _edges(rings: Sequence[Floats]) -> tuple[Doubles, Doubles]:
    """Return the edges of all rings: begins and ends, [N, 2] each."""
    none = np.zeros((0, 2))
    begins = [ring.astype(np.float64) for ring in rings]
    return (
        np.concatenate([none, *begins]),
        np.concatenate([none, *(np.roll(ring, -1, 0) for ring in begins)]),
    )
