"""Connected parts of a mask as runs, and the removal of small ones. Pure."""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Bools, Ints
from samserve.core.geometry import Size
from samserve.core.run_sets import from_spans, inverse
from samserve.core.runs import ColumnSpans, Runs, spans


def fill_holes(mask: Runs, least: int) -> Runs:
    """Fill the holes of less than `least` pixels.

    A hole is a part of the background; pixels that touch at a corner belong together. Source: SAM,
    remove_small_regions.
    """
    background = spans(inverse(mask))
    labels, sizes = components(background)
    small = sizes[labels] < least
    if not small.any():
        return mask

    kept = _select(background, ~small)
    return inverse(from_spans(kept, Size(mask.width, mask.height)))


def remove_islands(mask: Runs, least: int) -> Runs:
    """Remove the parts of less than `least` pixels; if all are smaller, the largest stays.

    Pixels that touch at a corner belong together. Source: SAM, remove_small_regions.
    """
    foreground = spans(mask)
    labels, sizes = components(foreground)
    small = sizes[labels] < least
    if not small.any():
        return mask
    if small.all():
        small = labels != np.argmax(sizes)

    return from_spans(_select(foreground, ~small), Size(mask.width, mask.height))


def components(cut: ColumnSpans) -> tuple[Ints, Ints]:
    """Label the connected parts of a mask; pixels that touch at a corner belong together.

    Args:
        cut: The mask's spans, in order.

    Returns:
        The part of each span, [N], and the pixels of each part.
    """
    upper, lower = _touching(cut)
    labels = np.arange(len(cut.columns))
    while True:
        # Give each pair's later root the earlier one's label, then follow labels to their roots.
        a, b = labels[upper], labels[lower]
        if (a == b).all():
            break
        np.minimum.at(labels, np.maximum(a, b), np.minimum(a, b))
        while (labels[labels] != labels).any():
            labels = labels[labels]

    _, labels = np.unique(labels, return_inverse=True)
    sizes = np.bincount(labels, cut.bottoms - cut.tops).astype(np.int64)
    return labels, sizes


def _touching(cut: ColumnSpans) -> tuple[Ints, Ints]:
    """Return the pairs of spans in neighbouring columns that touch, if only at a corner."""
    if not len(cut.columns):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)

    # Of each span the first and last (exclusive) in the next column that touch it. Rows are coded
    # with the column, wide enough that a row of -1 or height stays within its column.
    stride = int(cut.bottoms.max()) + 3
    here = (cut.columns + 1) * stride + 1
    tops = cut.columns * stride + cut.tops + 1
    bottoms = cut.columns * stride + cut.bottoms + 1
    first = np.searchsorted(bottoms, here + cut.tops, "left")
    last = np.searchsorted(tops, here + cut.bottoms, "right")

    counts = np.maximum(last - first, 0)
    starts = np.cumsum(counts) - counts
    spans_here = np.repeat(np.arange(len(counts)), counts)
    spans_next = np.arange(counts.sum()) + np.repeat(first - starts, counts)
    return spans_here, spans_next


def _select(cut: ColumnSpans, kept: Bools) -> ColumnSpans:
    return ColumnSpans(cut.columns[kept], cut.tops[kept], cut.bottoms[kept])
