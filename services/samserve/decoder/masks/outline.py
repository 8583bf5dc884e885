"""Turns low-res logits into a mask at the source image's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Bools, Floats, Ints
from samserve.core.geometry import Frame, Size, fit
from samserve.core.runs import Runs
from samserve.decoder.masks.kernel import scale_bilinear

MARGIN = 2  # rows and columns of low-res logits around the positive ones


@dataclass(frozen=True, slots=True, eq=False)
class _Framed:
    """The part of the framed logits that decides the mask.

    Attributes:
        logits: [rows, columns], bilinear to the frame's resolution; two columns at least.
        row: Of the frame, the first one of the part.
        column: Likewise.
    """

    logits: Floats
    row: int
    column: int


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The source's columns that may hold some of the mask; [N] of them.

    Attributes:
        first: The first one's number.
        left: [N], the framed column to the left of each, counted within the part.
        weight: [N], of the framed column to the right; 1 - weight is that of the left one.
    """

    first: int
    left: Ints
    weight: Floats


@np.errstate(invalid="ignore", over="ignore")
def outline(logits: Floats, size: Size, frame: Frame) -> Runs:
    """Scale low-res logits to the source image's size and cut them at 0.

    SAM's order: bilinear to the frame, cut the padding off, bilinear to the source's size, then the
    threshold 0. A column of the source runs in straight lines from one row of the frame to the
    next. So it enters or leaves the mask at most once between two rows, and only if the values
    there differ in sign. That requires that the four framed logits around the place differ in sign.
    Source: SAM, Sam.postprocess_masks; torch's bilinear with align_corners=False.

    Args:
        logits: [L, L]; L divides the frame's side.
        size: Of the source image.
        frame: The model's mask frame. Its side is L for a model that scales masks to the source's
            size at once.
    """
    inner = fit(size, frame)
    framed = _scale_to_frame(logits, inner, frame)
    columns = _source_columns(size.width, inner.width, framed)

    # Candidates: (row pair, column) places where four framed logits differ in sign. Keep those
    # where the two values in the source's column differ in sign, which are crossings.
    rows, at = _sign_changes(framed.logits, columns.left)
    left, weight = columns.left[at], columns.weight[at]
    upper, upper_inside = _values_across(framed.logits, rows, left, weight)
    lower, lower_inside = _values_across(framed.logits, rows + 1, left, weight)
    crossing = upper_inside != lower_inside
    rows, at, upper, lower = rows[crossing], at[crossing], upper[crossing], lower[crossing]
    leaving = upper_inside[crossing]

    # Where the line between the two values is 0, in rows of the source. Logits that are too small
    # or too large for float32 have no share; take the middle.
    share = np.nan_to_num(upper / (upper - lower), nan=0.5)
    y = (framed.row + rows + share + 0.5) * (size.height / inner.height) - 0.5
    # The first row on the other side; 0 itself is background.
    y_first = np.where(leaving, np.ceil(y), np.floor(y) + 1).astype(np.int64)
    crossings = at * size.height + y_first

    # A column that is inside at the part's first row begins inside at the top; one that is inside
    # at the last row continues to the bottom, which is the next column's top.
    tops = np.flatnonzero(_row_inside(framed.logits, 0, columns)) * size.height
    bottoms = (np.flatnonzero(_row_inside(framed.logits, -1, columns)) + 1) * size.height

    # Pixel counts at which the mask changes. Two changes at one pixel cancel each other.
    changes = np.concatenate([crossings, tops, bottoms]) + columns.first * size.height
    changes, times = np.unique(changes, return_counts=True)
    changes = changes[times % 2 == 1]
    return Runs(size.height, size.width, changes[changes < size.pixels])


def _scale_to_frame(logits: Floats, inner: Size, frame: Frame) -> _Framed:
    """Scale the part of the logits that has all positive ones on the image to the frame.

    A framed logit mixes the two nearest rows and columns. With a margin of two, the positive logits
    and their neighbours get the values that they have when all logits are scaled.

    Args:
        logits: [L, L].
        inner: The image's size in the frame.
        frame: The model's mask frame.
    """
    # The logits that the image touches, and one more.
    cell = frame.side // len(logits)
    shown = logits[: -(-inner.height // cell) + 1, : -(-inner.width // cell) + 1]
    # The tight box around the positive ones, with the margin.
    positive = shown > 0
    y0, y1 = _range_with_margin(np.flatnonzero(positive.any(1)))
    x0, x1 = _range_with_margin(np.flatnonzero(positive.any(0)))
    part = shown[y0:y1, x0:x1]
    framed = scale_bilinear(part, cell)[: inner.height - y0 * cell, : inner.width - x0 * cell]
    if framed.shape[1] == 1:
        framed = np.repeat(framed, 2, axis=1)

    return _Framed(framed, y0 * cell, x0 * cell)


def _range_with_margin(indices: Ints) -> tuple[int, int]:
    """First and last (exclusive) of rising indices, with the margin; (0, 1) if there are none."""
    if not len(indices):
        return 0, 1

    return max(indices[0] - MARGIN, 0), indices[-1] + MARGIN + 1


def _source_columns(width: int, inner: int, framed: _Framed) -> _Columns:
    """Return the source's columns that lie between columns of the part.

    Args:
        width: Of the source image.
        inner: Width of the image in the frame.
        framed: The part.
    """
    count = framed.logits.shape[1]
    centres = (np.arange(width) + 0.5) * (inner / width) - 0.5
    at = np.clip(centres, 0, inner - 1) - framed.column
    first = np.searchsorted(at, 0)
    end = np.searchsorted(at, count - 1, "right")
    within = at[first:end]
    left = np.minimum(within.astype(np.int64), count - 2)
    return _Columns(int(first), left, (within - left).astype(np.float32))


def _sign_changes(framed: Floats, left: Ints) -> tuple[Ints, Ints]:
    """Find the places where four neighbouring framed logits differ in sign.

    Args:
        framed: [rows, columns].
        left: [N], the framed column to the left of each source column, rising.

    Returns:
        The upper framed row and the index in `left`, for each source column that crosses such a
        place.
    """
    # How many of each 2 x 2 logits are positive: neither 0 nor 4 where they differ.
    inside = (framed > 0).view(np.uint8)
    pairs = inside[:-1] + inside[1:]
    fours = pairs[:, :-1] + pairs[:, 1:]
    differing = (fours - 1) < 3  # unsigned: 0 - 1 is 255
    rows, cells = np.divmod(np.flatnonzero(differing), max(fours.shape[1], 1))

    # The source columns of a framed column are neighbours in `left`: repeat each place for all of
    # its source columns, then count them up from the first.
    begins = np.searchsorted(left, np.arange(fours.shape[1] + 1))
    counts = np.diff(begins)[cells]
    starts = np.cumsum(counts) - counts
    at = np.arange(counts.sum()) + np.repeat(begins[cells] - starts, counts)
    return np.repeat(rows, counts), at


def _values_across(framed: Floats, rows: Ints, left: Ints, weight: Floats) -> tuple[Floats, Bools]:
    """Interpolate framed rows at source columns.

    Args:
        framed: [rows, columns].
        rows: [N], framed rows.
        left: [N], the framed column to the left.
        weight: [N], of the framed column to the right.

    Returns:
        The values, and whether they are positive. If both neighbours have the same sign, so has the
        value: rounding must not create a crossing between them.
    """
    a, b = framed[rows, left], framed[rows, left + 1]
    values = a * (1 - weight) + b * weight
    a_inside = a > 0
    return values, np.where(a_inside == (b > 0), a_inside, values > 0)


def _row_inside(framed: Floats, row: int, columns: _Columns) -> Bools:
    """[N], whether the source columns are on the mask at a framed row."""
    rows = np.full_like(columns.left, row)
    _, inside = _values_across(framed, rows, columns.left, columns.weight)
    return inside
