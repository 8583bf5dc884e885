"""Turns masks into polygons with holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Doubles, Ints
from samserve.core.rings import Ring, trace
from samserve.core.runs import Runs
from samserve.decoder.masks.kernel import simplify

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


def polygons(runs: Runs, tolerance: float) -> list[Polygon]:
    """Return a mask's outlines, simplified.

    Args:
        runs: The mask.
        tolerance: In pixels. Corners are left out where the line then strays by no more than this,
            and where a polygon's pixels change by no more than 1%, or as many percent as the
            tolerance has pixels. 0 leaves out none.
    """
    traced = trace(runs)
    rings = traced.rings
    parents = [
        ring if hole else index
        for index, (hole, ring) in enumerate(zip(traced.is_hole, traced.around, strict=True))
    ]
    if rings and tolerance > 0:
        rings = _simplify(rings, parents, min(tolerance, float(runs.height + runs.width)))

    # An exterior is its own parent.
    indexed = list(enumerate(zip(rings, parents, strict=True)))
    by_exterior = {i: Polygon(ring, []) for i, (ring, parent) in indexed if i == parent}
    for i, (ring, parent) in indexed:
        if i != parent:
            by_exterior[parent].holes.append(ring[::-1])

    return list(by_exterior.values())


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
