"""Unions, intersections and shifts of masks as runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samserve.core.crop import Crop
from samserve.core.geometry import Size
from samserve.core.runs import ColumnSpans, Runs, spans


def combine(masks: Sequence[Runs], at_least: int) -> Runs:
    """Return the pixels that are on at least so many of the masks, which have one size.

    One is the union, all of them the intersection.
    """
    height, width = masks[0].height, masks[0].width
    places = np.concatenate([mask.changes for mask in masks])
    steps = np.concatenate([1 - 2 * (np.arange(len(mask.changes)) % 2) for mask in masks])

    # How many masks each pixel is on, from one change to the next; equal places count as one.
    order = np.argsort(places, kind="stable")
    places, counts = places[order], np.cumsum(steps[order])
    is_last = np.append(places[1:] != places[:-1], True)[: len(places)]
    places, inside = places[is_last], counts[is_last] >= at_least
    return Runs(height, width, places[np.diff(inside, prepend=False)])


def union(masks: Sequence[Runs], size: Size) -> Runs:
    """Return the pixels that are on any of the masks."""
    return combine([Runs(size.height, size.width, np.zeros(0, np.int64)), *masks], 1)


def intersection(a: Runs, b: Runs) -> Runs:
    """Return the pixels that are on both masks."""
    return combine([a, b], 2)


def inverse(mask: Runs) -> Runs:
    """Return the pixels that are not on the mask."""
    changes = mask.changes
    if len(changes) and changes[0] == 0:
        return Runs(mask.height, mask.width, changes[1:])
    return Runs(mask.height, mask.width, np.concatenate([[0], changes]))


def from_spans(cut: ColumnSpans, size: Size) -> Runs:
    """Return the mask of spans that do not overlap, in order."""
    starts = cut.columns * size.height + cut.tops
    ends = cut.columns * size.height + cut.bottoms

    # A span that ends where the next one begins continues in the next column.
    changes = np.stack([starts, ends], 1).ravel()
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([joined, joined + 1]))
    return Runs(size.height, size.width, changes[changes < size.pixels])


def place(mask: Runs, crop: Crop, size: Size) -> Runs:
    """Return a crop's mask as one of the whole image.

    Args:
        mask: Of the crop's size.
        crop: Part of the image.
        size: Of the whole image.
    """
    if crop.size == size:
        return mask
    cut = spans(mask)
    shifted = ColumnSpans(cut.columns + crop.x0, cut.tops + crop.y0, cut.bottoms + crop.y0)
    return from_spans(shifted, size)
