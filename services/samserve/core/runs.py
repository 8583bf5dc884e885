"""A mask as the places where it changes: thousands of numbers instead of millions of pixels. Pure.

Pixels are counted column by column from the top left, as COCO does: column * height + row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Array, Bools, Bytes, Ints

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
    """A mask of height x width pixels.

    Attributes:
        height: Rows of the mask.
        width: Columns of the mask.
        changes: Rising pixel numbers at which the value changes, first to foreground.
    """

    height: int
    width: int
    changes: Ints


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSpans:
    """The foreground runs cut at the ends of columns, in order.

    Attributes:
        columns: [N] column of each span.
        tops: [N] first row of each span.
        bottoms: [N] row after the last of each span.
    """

    columns: Ints
    tops: Ints
    bottoms: Ints


def runs_of(mask: Mask) -> Runs:
    """Return the runs of a mask, bool [H, W]."""
    flat = np.ravel(mask, order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return Runs(mask.shape[0], mask.shape[1], changes)


def counts(runs: Runs) -> Ints:
    """Return COCO's counts: the lengths of the runs; the first is background and may be 0."""
    return np.diff(runs.changes, prepend=0, append=runs.height * runs.width)


def area(runs: Runs) -> int:
    """Return the foreground pixels of the mask."""
    return int(counts(runs)[1::2].sum())


def spans(runs: Runs) -> ColumnSpans:
    """Cut the runs, which may extend over many columns, into spans of one column each."""
    # First and last column of each run.
    ends = np.append(runs.changes, runs.height * runs.width)[1::2]
    starts = runs.changes[::2][: len(ends)]
    first = starts // runs.height
    last = (ends - 1) // runs.height

    # One span for each column of a run.
    number = last - first + 1
    columns = np.arange(number.sum()) + np.repeat(first - (np.cumsum(number) - number), number)

    # Spans fill their column, but for the first span's top and the last span's bottom of a run.
    tops = np.zeros_like(columns)
    bottoms = np.full_like(columns, runs.height)
    last_of = np.cumsum(number) - 1
    tops[last_of - number + 1] = starts - first * runs.height
    bottoms[last_of] = ends - last * runs.height
    return ColumnSpans(columns, tops, bottoms)


def contains(runs: Runs, points: Array) -> Bools:
    """Return which points lie on the mask, [N].

    Args:
        runs: The mask.
        points: [N, 2], (x, y) in pixels; those at the right or bottom edge count as inside it.
    """
    most = (runs.width - 1, runs.height - 1)
    columns, rows = np.clip(np.floor(points), 0, most).astype(np.int64).T
    before = np.searchsorted(runs.changes, columns * runs.height + rows, "right")
    on_mask: Bools = before % 2 == 1
    return on_mask


def box(runs: Runs) -> Box:
    """Return the tight box of the mask."""
    if not len(runs.changes):
        return Box(0, 0, 0, 0)
    cut = spans(runs)
    return Box(
        x0=int(cut.columns[0]),
        y0=int(cut.tops.min()),
        x1=int(cut.columns[-1]) + 1,
        y1=int(cut.bottoms.max()),
    )


def crop(runs: Runs, part: Box) -> Runs:
    """Return the part of the mask inside a box of at least one pixel."""
    cut = spans(runs)
    height, width = part.y1 - part.y0, part.x1 - part.x0
    tops = np.clip(cut.tops - part.y0, 0, height)
    bottoms = np.clip(cut.bottoms - part.y0, 0, height)
    columns = cut.columns - part.x0
    inside = (tops < bottoms) & (columns >= 0) & (columns < width)

    # A run that continues from a column's bottom to the top of the next has no change there.
    starts = columns[inside] * height
    ends = np.stack([starts + tops[inside], starts + bottoms[inside]], 1).ravel()
    changes = _unpaired(ends)
    return Runs(height, width, changes[changes < height * width])


def row_changes(runs: Runs) -> Ints:
    """Return the changes of the mask read row by row.

    Returns:
        Rising pixel numbers, row * width + column, at which the value changes, first to foreground.
    """
    # Span ends, in order along each column. Both sides of a line between two columns are listed.
    cut = spans(runs)
    rows = runs.height + 1
    ends = np.concatenate([cut.columns * rows + cut.tops, cut.columns * rows + cut.bottoms])
    lines = np.sort(np.concatenate([ends, ends + rows]))

    # Ends that occur twice cancel. Between the first and the second of a line's remaining ends, and
    # so on, the two columns differ: the value changes there.
    first, last = _unpaired(lines).reshape(-1, 2).T
    lengths = last - first
    starts = np.cumsum(lengths) - lengths
    column, row = np.divmod(np.arange(lengths.sum()) + np.repeat(first - starts, lengths), rows)

    # The end of a row is the beginning of the next one: a run that continues there does not change.
    changes = _unpaired(np.sort(row * runs.width + column))
    within: Ints = changes[changes < runs.height * runs.width]
    return within


def _unpaired(ordered: Ints) -> Ints:
    """Return ordered numbers without pairs of equal ones; none occurs more than twice."""
    differs = np.diff(ordered, prepend=-1, append=-1) != 0
    unpaired: Ints = ordered[differs[1:] & differs[:-1]]
    return unpaired


def bits(runs: Runs) -> Bytes:
    """Return the mask with one bit a pixel, uint8 [H, ceil(W / 8)].

    A byte's highest bit is the leftmost pixel; rows are padded with zeros.
    """
    cut = spans(runs)
    packed = np.zeros((runs.height + 1, (runs.width + 7) // 8), np.uint8)
    byte = cut.columns >> 3
    bit = (0x80 >> (cut.columns & 7)).astype(np.uint8)

    # Mark the rows where a column changes; each row is then the one above with its marks flipped.
    for rows in (cut.tops, cut.bottoms):
        np.bitwise_xor.at(packed, (rows, byte), bit)
    return np.bitwise_xor.accumulate(packed[:-1], axis=0)


def dense(runs: Runs) -> Mask:
    """Return the mask, bool [H, W]."""
    return np.unpackbits(bits(runs), axis=1, count=runs.width).view(np.bool_)
