"""A mask as the places where it changes: a few thousand numbers where the pixels are millions. Pure.

Pixels are counted column by column from the top left, as COCO does: column * height + row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Bools, Bytes, Ints

Mask = Bools  # [height, width]


@dataclass(frozen=True, slots=True)
class Box:
    """The tight box of a mask in pixels, right and bottom exclusive; all zero for an empty mask."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """A mask of height x width pixels. changes: rising pixel counts at which it changes, the first to foreground."""

    height: int
    width: int
    changes: Ints


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSpans:
    """The runs cut at the columns' ends, in order: [N] columns, first rows and rows past the last."""

    columns: Ints
    tops: Ints
    bottoms: Ints


def runs_of(mask: Mask) -> Runs:
    """bool [H, W] -> runs."""
    flat = np.ravel(mask, order="F")
    return Runs(mask.shape[0], mask.shape[1], np.flatnonzero(np.diff(flat, prepend=False)))


def counts(runs: Runs) -> Ints:
    """COCO's counts: the runs' lengths, the first of background, perhaps 0."""
    return np.diff(runs.changes, prepend=0, append=runs.height * runs.width)


def area(runs: Runs) -> int:
    """Pixels of the mask."""
    return int(counts(runs)[1::2].sum())


def spans(runs: Runs) -> ColumnSpans:
    """One run may go on over many columns; of spans each column has its own."""
    ends = np.append(runs.changes, runs.height * runs.width)[1::2]
    starts = runs.changes[::2][: len(ends)]
    first, last = starts // runs.height, (ends - 1) // runs.height
    number = last - first + 1
    columns = np.arange(number.sum()) + np.repeat(first - (np.cumsum(number) - number), number)
    tops, bottoms = np.zeros_like(columns), np.full_like(columns, runs.height)
    last_of = np.cumsum(number) - 1
    tops[last_of - number + 1] = starts - first * runs.height
    bottoms[last_of] = ends - last * runs.height
    return ColumnSpans(columns, tops, bottoms)


def box(runs: Runs) -> Box:
    """The tight box."""
    if not len(runs.changes):
        return Box(0, 0, 0, 0)
    each = spans(runs)
    return Box(
        int(each.columns[0]),
        int(each.tops.min()),
        int(each.columns[-1]) + 1,
        int(each.bottoms.max()),
    )


def bits(runs: Runs) -> Bytes:
    """uint8 [H, ceil(W / 8)]: a pixel a bit, a byte's highest bit the leftmost, rows padded with zeros.

    Where a span begins or ends a bit is set; each row then is the one above it, those bits turned over.
    """
    each = spans(runs)
    packed = np.zeros((runs.height + 1, (runs.width + 7) // 8), np.uint8)
    byte, bit = each.columns >> 3, (0x80 >> (each.columns & 7)).astype(np.uint8)
    for rows in (each.tops, each.bottoms):
        np.bitwise_xor.at(packed, (rows, byte), bit)
    return np.bitwise_xor.accumulate(packed[:-1], axis=0)


def dense(runs: Runs) -> Mask:
    """bool [H, W]."""
    return np.unpackbits(bits(runs), axis=1, count=runs.width).view(np.bool_)
