"""The outlines of a mask, followed along the edges of its pixels. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Bools, Floats, Ints
from samserve.core.runs import ColumnSpans, Runs, spans

Ring = Floats  # [N, 2], (x, y) of corners in pixels; pixel (0, 0) is from 0 to 1

OUTSIDE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """All outlines of a mask.

    Attributes:
        rings: The left side of each exterior runs downwards, and the right side of each hole.
        is_hole: Of each ring.
        around: Of each ring the index of the ring around it: of a hole its exterior, of an exterior
            the hole that it lies in, or OUTSIDE.
    """

    rings: list[Ring]
    is_hole: list[bool]
    around: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class _Corners:
    """The corners of all outlines, sorted by x and then by y, [N]. Each is one end of a span.

    Attributes:
        x: In pixels.
        y: In pixels.
        left_side: 1 if the corner is on the left side of the span's column, else 0.
        is_top: 1 if it is the upper end of the span, else 0.
    """

    x: Ints
    y: Ints
    left_side: Ints
    is_top: Ints


def trace(runs: Runs, *, diagonal: bool = False) -> Rings:
    """Return all outlines.

    On the line between two columns the outline runs where only one of the columns has a span. Its
    corners are the ends of spans that the other column has not. So along each vertical line the
    corners pair up into edges, and along each horizontal line too. Where four pixels alternate, two
    corners meet, and there are two ways to pair them.

    Args:
        runs: The mask.
        diagonal: Whether pixels that touch only at a corner belong to one part. Then those of the
            background do not.
    """
    columns = spans(runs)
    corners = _corners(columns, runs.height)

    # Sort the corners by rows too, and pair neighbours: `across` is each corner's partner.
    width = runs.width + 1
    side = corners.left_side ^ _meets_another(corners) if diagonal else corners.left_side
    by_rows = (corners.y * width + corners.x) * 2 + side
    order = np.argsort(by_rows)
    across = np.empty_like(order)
    across[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    paths = _cycles(across.tolist())
    ring_of = np.empty_like(order)  # of each corner
    for index, path in enumerate(paths):
        ring_of[path] = index

    # At the first corner of an exterior, its upper left, a span of the column to the right begins.
    starts = np.array([path[0] for path in paths], np.int64)
    is_hole = (corners.is_top[starts] & corners.left_side[starts]) == 0

    # Look at the column to the left of a ring's first corner. A hole has a span there, and the edge
    # on top of it belongs to a ring of the same part. An exterior has background there; the edge
    # above it, if there is one, belongs to a ring of the same background.
    x, y = corners.x[starts], corners.y[starts]
    height = runs.height + 1
    span_starts = columns.columns * height + columns.tops
    span = np.searchsorted(span_starts, (x - 1) * height + y, "right") - 1
    has_span = (span >= 0) & (columns.columns[span] == x - 1)
    edge_rows = np.where(is_hole, columns.tops[span], columns.bottoms[span])
    edge_starts = (edge_rows * width + x - 1) * 2 + 1
    edge = np.searchsorted(by_rows[order], edge_starts, "right") - 1
    above = np.where(has_span, ring_of[order[edge]], OUTSIDE)

    points = np.stack([corners.x, corners.y], 1).astype(np.float32)
    holes = is_hole.tolist()
    return Rings([points[path] for path in paths], holes, _around(holes, above.tolist()))


def _corners(columns: ColumnSpans, height: int) -> _Corners:
    """Return the corners: span ends that the neighbouring column does not have.

    Corners are coded as ((x * (height + 1) + y) * 2 + is_top) * 2 + left_side, to be sorted as one
    number.
    """
    rows = height + 1
    bottoms = (columns.columns * rows + columns.bottoms) * 2
    tops = (columns.columns * rows + columns.tops) * 2 + 1
    ends = np.concatenate([bottoms, tops])

    # Each end touches two vertical lines: its column's right side, at x + 1, and the left one.
    on_right_side = (ends + 2 * rows) * 2
    on_left_side = ends * 2 + 1
    coded = np.sort(np.concatenate([on_right_side, on_left_side]))

    # Two neighbouring columns with the same end: the outline runs straight on, without a corner.
    differs = np.diff(coded >> 1, prepend=-1, append=-1) != 0
    coded = coded[differs[1:] & differs[:-1]]
    x, y = np.divmod(coded >> 2, rows)
    return _Corners(x, y, left_side=coded & 1, is_top=coded >> 1 & 1)


def _meets_another(corners: _Corners) -> Bools:
    """[N], whether another corner has the same place."""
    same = (np.diff(corners.x) == 0) & (np.diff(corners.y) == 0)
    meets: Bools = np.append(same, False) | np.insert(same, 0, False)
    return meets


def _cycles(across: list[int]) -> list[list[int]]:
    """Follow the rings.

    Args:
        across: Each corner's partner on its horizontal line. On its vertical line, the partner of
            corner 2k is 2k + 1.

    Returns:
        For each ring the indices of its corners, from the first one on.
    """
    seen = bytearray(len(across))
    paths: list[list[int]] = []
    for start in range(0, len(across), 2):
        path: list[int] = []
        at = start
        while not seen[at]:
            # Along the vertical line, then along the horizontal one.
            below = at ^ 1
            path += (at, below)
            seen[at] = seen[below] = 1
            at = across[below]
        if path:
            paths.append(path)

    return paths


def _around(is_hole: list[bool], above: list[int]) -> list[int]:
    """Return of each ring the index of the ring around it, or OUTSIDE.

    Args:
        is_hole: Of each ring.
        above: Of each ring an earlier ring of the same part or the same background, or OUTSIDE.
    """
    around: list[int] = []
    for hole, ring in zip(is_hole, above, strict=True):
        if ring == OUTSIDE or is_hole[ring] != hole:
            around.append(ring)
        else:
            around.append(around[ring])

    return around
