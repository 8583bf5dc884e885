"""Turns masks into polygons with holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Doubles, Floats, Ints
from samserve.core.runs import ColumnSpans, Runs, spans
from samserve.decoder.masks.kernel import simplify

Ring = Floats  # [N, 2], (x, y) of corners in pixels; pixel (0, 0) is from 0 to 1

CHANGED = 0.01  # share of its pixels that a polygon may gain and lose, at a tolerance up to 1 pixel
TOUCH = 1e-6  # pixels: an edge this near to a pixel's centre goes through it
FINEST = 0.1  # pixels: a smaller tolerance leaves out no corners


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """A part of a mask: pixels connected by their edges.

    Attributes:
        exterior: Counter-clockwise on the screen.
        holes: Clockwise on the screen.
    """

    exterior: Ring
    holes: list[Ring]


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


def polygons(runs: Runs, tolerance: float) -> list[Polygon]:
    """Return a mask's outlines, simplified.

    Args:
        runs: The mask.
        tolerance: In pixels. Corners are left out where the line then strays by no more than this,
            and where a polygon's pixels change by no more than 1%, or as many percent as the
            tolerance has pixels. 0 leaves out none.
    """
    rings, parents = _trace(runs)
    if rings and tolerance > 0:
        rings = _simplify(rings, parents, min(tolerance, float(runs.height + runs.width)))

    # An exterior is its own parent.
    indexed = list(enumerate(zip(rings, parents, strict=True)))
    by_exterior = {i: Polygon(ring, []) for i, (ring, parent) in indexed if i == parent}
    for i, (ring, parent) in indexed:
        if i != parent:
            by_exterior[parent].holes.append(ring[::-1])

    return list(by_exterior.values())


def _trace(runs: Runs) -> tuple[list[Ring], list[int]]:
    """Return all rings, and for each the index of its exterior; an exterior's is its own.

    The left side of each ring runs downwards.

    On the line between two columns the outline runs where only one of the columns has a span. Its
    corners are the ends of spans that the other column has not. So along each vertical line the
    corners pair up into edges, and along each horizontal line too. Where four pixels alternate, two
    corners meet; they are paired so that each belongs to one pixel of the mask.
    """
    columns = spans(runs)
    corners = _corners(columns, runs.height)

    # Sort the corners by rows too, and pair neighbours: `across` is each corner's partner.
    width = runs.width + 1
    by_rows = (corners.y * width + corners.x) * 2 + corners.left_side
    order = np.argsort(by_rows)
    across = np.empty_like(order)
    across[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    paths = _cycles(across.tolist())
    ring_of = np.empty_like(order)  # of each corner
    for index, path in enumerate(paths):
        ring_of[path] = index

    # At the first corner of a hole, its upper left, the mask ends below: a span's lower end.
    starts = np.array([path[0] for path in paths], np.int64)
    is_hole = corners.is_top[starts] == 0

    # A hole lies in the part that has the span to the left of its first corner. The edge on top of
    # that span belongs to a ring that begins before the hole, whose exterior is known by then.
    x, y = corners.x[starts], corners.y[starts]
    height = runs.height + 1
    span_starts = columns.columns * height + columns.tops
    span = np.searchsorted(span_starts, (x - 1) * height + y, "right") - 1
    span_tops = (columns.tops[span] * width + x - 1) * 2 + 1
    top = np.searchsorted(by_rows[order], span_tops, "right") - 1
    ring_above = ring_of[order[top]]

    parents: list[int] = []
    for index, (hole, above) in enumerate(zip(is_hole.tolist(), ring_above.tolist(), strict=True)):
        parents.append(parents[above] if hole else index)

    points = np.stack([corners.x, corners.y], 1).astype(np.float32)
    return [points[path] for path in paths], parents


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


def _simplify(rings: list[Ring], parents: list[int], tolerance: float) -> list[Ring]:
    """Return rings of fewer corners.

    A ring whose simplification would change too many pixels is tried with half the tolerance, until
    it is left as it is. Each edge of one pixel is first replaced by its middle, which strays by
    half a pixel, so that slopes become straight lines.

    Args:
        rings: All rings.
        parents: Of each ring the index of its exterior.
        tolerance: In pixels.
    """
    # A polygon may change by a share of its pixels, divided among its rings by their lengths.
    is_exterior = np.arange(len(rings)) == parents
    lengths = np.array([len(ring) for ring in rings])
    length_share = lengths / np.bincount(parents, lengths)[parents]
    sizes = _sizes(rings)
    polygon_sizes = np.bincount(parents, np.where(is_exterior, sizes, -sizes))[parents]
    allowed = CHANGED * max(1.0, tolerance) * length_share * polygon_sizes

    simplified = list(rings)
    smooth = [_smooth(ring) for ring in rings]
    remaining = np.arange(len(rings))
    slack = tolerance - 0.5
    while len(remaining) and slack >= FINEST:
        candidates = _leave_out([smooth[i] for i in remaining], slack)
        is_ring = np.array([len(candidate) > 2 for candidate in candidates])
        changed = _changed_pixels([rings[i] for i in remaining], candidates)
        good = (changed <= allowed[remaining]) & is_ring

        for i, candidate, is_good in zip(remaining, candidates, good, strict=True):
            if is_good:
                simplified[i] = candidate
        remaining = remaining[~good]
        slack /= 2

    return simplified


def _leave_out(rings: list[Ring], slack: float) -> list[Ring]:
    """Return rings without the corners whose absence moves no line by more than `slack` pixels."""
    ends = np.cumsum([len(ring) for ring in rings])
    corners = np.concatenate(rings)
    kept = simplify(corners, ends, slack)
    counts = np.concatenate([[0], np.cumsum(kept)])[ends]
    return np.split(corners[kept], counts[:-1])


def _smooth(ring: Ring) -> Ring:
    """Replace both ends of each edge of one pixel by its middle."""
    following = np.roll(ring, -1, 0)
    short = np.abs(following - ring).sum(1) == 1
    points = np.where(short[:, None], (ring + following) / 2, ring)
    # The end of a short edge goes, unless a further short edge begins there.
    smooth: Ring = points[short | ~np.roll(short, 1)].astype(np.float32)
    return smooth


def _changed_pixels(rings: list[Ring], candidates: list[Ring]) -> Doubles:
    """Return for each ring an upper bound of the pixels that a candidate changes, [N].

    It counts the pixels that certainly change, and those that may because an edge goes through
    their centres. It is at least the change of the ring's area.
    """
    # Number the pixels of all rings: ring * stride + column * down + row.
    down = max(int(ring[:, 1].max()) for ring in rings) + 1
    stride = down * (max(int(ring[:, 0].max()) for ring in rings) + 1)

    # Pixels between two crossings, one of the ring and one of the candidate, are inside only one.
    least = _crossings(candidates, down, stride, 0.5 + TOUCH)
    most = _crossings(candidates, down, stride, 0.5 - TOUCH)
    both = np.sort(np.concatenate([_crossings(rings, down, stride, 0.5), least]))
    certain = np.bincount(both[::2] // stride, np.diff(both)[::2], len(rings))

    # Pixels whose centres an edge touches: on slanted edges the crossings differ by them, and an
    # upright edge through centres touches one in each row.
    touched = np.bincount(least // stride, most - least, len(rings))
    begin, end, ring = _edges(candidates)
    is_upright = (begin[:, 0] % 1 == 0.5) & (begin[:, 0] == end[:, 0])
    upright = np.bincount(ring, is_upright * np.abs(end - begin)[:, 1], len(rings))
    area_change = np.abs(_sizes(rings) - _sizes(candidates))
    return np.maximum(certain + (touched + upright), area_change)


def _crossings(rings: list[Ring], down: int, stride: int, centre: float) -> Ints:
    """Return where the columns' centre lines cross the rings.

    Args:
        rings: Any.
        down: Pixels of a column.
        stride: Pixels of a ring.
        centre: Where a pixel's centre is taken to lie vertically, from 0 to 1.

    Returns:
        For each crossing the first pixel below it: ring * stride + column * down + row.
    """
    begin, end, ring = _edges(rings)

    # The columns whose centres lie between an edge's ends, and one entry for each of them.
    x_ends = np.sort(np.stack([begin[:, 0], end[:, 0]]), axis=0)
    first, last = np.ceil(x_ends - 0.5).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(ring)), counts)
    starts = np.cumsum(counts) - counts
    column = np.arange(len(edge)) + np.repeat(first - starts, counts)

    (x, y), (dx, dy) = begin.T, (end - begin).T
    slope = dy / np.where(counts > 0, dx, 1)
    y_at_zero = y - (x - 0.5) * slope  # at the centre of column 0
    row = np.ceil(y_at_zero[edge] + column * slope[edge] - centre).astype(np.int64)
    pixels: Ints = ring[edge] * stride + column * down + row
    return pixels


def _sizes(rings: list[Ring]) -> Doubles:
    """Return the areas in pixels, [N]."""
    begin, end, ring = _edges(rings)
    doubled = begin[:, 0] * end[:, 1] - end[:, 0] * begin[:, 1]
    return np.abs(np.bincount(ring, doubled, len(rings))) / 2


def _edges(rings: list[Ring]) -> tuple[Doubles, Doubles, Ints]:
    """Return the edges of all rings: begins and ends, [N, 2] each, and the index of the ring."""
    begin = np.concatenate(rings).astype(np.float64)
    lengths = np.array([len(ring) for ring in rings])
    # The edge after a ring's last corner ends at its first one.
    following = np.arange(1, len(begin) + 1)
    ends = np.cumsum(lengths)
    following[ends - 1] = ends - lengths
    return begin, begin[following], np.repeat(np.arange(len(rings)), lengths)
