"""From masks to polygons with holes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from samserve.core.runs import Runs, spans

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ring = NDArray[np.float32]

CHANGED = (
    0.01  # the share of its pixels that a polygon may gain and lose at a tolerance up to one pixel
)
TOUCH = 1e-6  # pixels: an edge as near to a pixel's centre goes through it
FINEST = 0.1  # pixels: to allow less leaves nothing out


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """A part of a mask whose pixels share edges. Rings: [N, 2] (x, y) of corners; pixel (0, 0) is from 0 to 1. On the
    screen the exterior runs counter-clockwise, the holes clockwise.
    """

    exterior: Ring
    holes: list[Ring]


def polygons(runs: Runs, tolerance: float) -> list[Polygon]:
    """The mask's outlines, corners left out where the line then strays by no more than the tolerance, in pixels, and a
    polygon's pixels change by no more than 1%, or as many percent as the tolerance has pixels.
    """
    rings, parents = _trace(runs)
    if rings and tolerance > 0:
        rings = _simplified(rings, parents, min(tolerance, float(runs.height + runs.width)))
    found = {
        i: Polygon(ring, [])
        for i, (ring, parent) in enumerate(zip(rings, parents, strict=True))
        if i == parent
    }
    for i, (ring, parent) in enumerate(zip(rings, parents, strict=True)):
        if i != parent:
            found[parent].holes.append(ring[::-1])
    return list(found.values())


def _trace(runs: Runs) -> tuple[list[Ring], list[int]]:
    """All rings, the left side of each downwards, and of each its exterior's index, which of an exterior is its own.

    Between two columns the edge between mask and background runs where just one of them has a span; its corners are the
    ends of spans that the two have not in common. So down a line corners pair up into edges, and so along a row.
    Where four pixels alternate two corners meet, and are paired so that each belongs to one pixel of the mask.
    """
    each, high, wide = spans(runs), runs.height + 1, runs.width + 1
    ends = np.concatenate(
        [(each.columns * high + each.bottoms) * 2, (each.columns * high + each.tops) * 2 + 1]
    )
    coded = np.sort(
        np.concatenate([(ends + 2 * high) * 2, ends * 2 + 1])
    )  # right side of its column 0, left side 1
    apart = np.diff(coded >> 1, prepend=-1, append=-1) != 0
    coded = coded[apart[1:] & apart[:-1]]
    x, y = np.divmod(coded >> 2, high)
    on_rows = (y * wide + x) * 2 + (coded & 1)
    order = np.argsort(on_rows)
    across = np.empty_like(order)
    across[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    paths = _cycles(across.tolist())
    owner = np.empty_like(order)
    for index, path in enumerate(paths):
        owner[path] = index
    parents: list[int] = []
    starts = np.array([path[0] for path in paths], np.int64)
    is_hole = (
        coded[starts] & 2
    ) == 0  # below a hole's first corner, at its upper left, the mask ends
    # a hole lies in the part whose span is left of it; the edge on top of that span is a ring's that began before
    span = (
        np.searchsorted(
            each.columns * high + each.tops, (x[starts] - 1) * high + y[starts], "right"
        )
        - 1
    )
    tops = (
        np.searchsorted(on_rows[order], (each.tops[span] * wide + x[starts] - 1) * 2 + 1, "right")
        - 1
    )
    for index, (hole, ring) in enumerate(
        zip(is_hole.tolist(), owner[order[tops]].tolist(), strict=True)
    ):
        parents.append(parents[ring] if hole else index)
    corners = np.stack([x, y], 1).astype(np.float32)
    return [corners[path] for path in paths], parents


def _cycles(across: list[int]) -> list[list[int]]:
    """The corners' indices around each ring, from its first corner on. Down a line, corner 2k is joined to 2k + 1."""
    seen = bytearray(len(across))
    paths: list[list[int]] = []
    for start in range(0, len(across), 2):
        path: list[int] = []
        at = start
        while not seen[at]:
            seen[at] = 1
            path += (at, at ^ 1)
            seen[at ^ 1] = 1
            at = across[at ^ 1]
        if path:
            paths.append(path)
    return paths


def _simplified(rings: list[Ring], parents: list[int], tolerance: float) -> list[Ring]:
    """Rings of fewer corners. Where too many pixels would change, less and less is left out, in the end nothing.

    A step of one pixel is made its middle first, which strays by half a pixel, so that slopes become straight lines.
    """
    own = np.arange(len(rings)) == parents
    lengths = np.array([len(ring) for ring in rings])
    sizes = _sizes(rings)
    share = lengths / np.bincount(parents, lengths)[parents]
    allowed = (
        CHANGED
        * max(1.0, tolerance)
        * share
        * np.bincount(parents, np.where(own, sizes, -sizes))[parents]
    )
    done, left, slack = list(rings), np.arange(len(rings)), tolerance - 0.5
    smooth = [_smooth(ring) for ring in rings]
    while len(left) and slack >= FINEST:
        tried = [cv2.approxPolyDP(smooth[i], slack, closed=True)[:, 0] for i in left]
        good = (_changed([rings[i] for i in left], tried) <= allowed[left]) & [
            len(ring) > 2 for ring in tried
        ]
        for i, ring in zip(
            left[good], (ring for ring, fine in zip(tried, good, strict=True) if fine), strict=True
        ):
            done[i] = ring
        left, slack = left[~good], slack / 2
    return done


def _smooth(ring: Ring) -> Ring:
    """The corners, but for each edge of one pixel its middle instead of its ends."""
    after = np.roll(ring, -1, 0)
    short = np.abs(after - ring).sum(1) == 1
    middles = np.where(short[:, None], (ring + after) / 2, ring)
    kept: Ring = middles[short | ~np.roll(short, 1)].astype(np.float32)
    return kept


def _changed(rings: list[Ring], tried: list[Ring]) -> Floats:
    """Of each ring the pixels that change, or may, an edge going through their centres; at least its area's change."""
    down = max(int(ring[:, 1].max()) for ring in rings) + 1
    stride = down * (max(int(ring[:, 0].max()) for ring in rings) + 1)
    least, most = (_turns(tried, down, stride, centre) for centre in (0.5 + TOUCH, 0.5 - TOUCH))
    turns = np.sort(np.concatenate([_turns(rings, down, stride, 0.5), least]))
    sure = np.bincount(turns[::2] // stride, np.diff(turns)[::2], len(rings))
    begin, end, ring = _edges(tried)
    upright = (
        np.where(begin[:, 0] % 1 == 0.5, begin[:, 0] == end[:, 0], False)
        * np.abs(end - begin)[:, 1]
    )
    possible = np.bincount(least // stride, most - least, len(rings)) + np.bincount(
        ring, upright, len(rings)
    )
    return np.maximum(sure + possible, np.abs(_sizes(rings) - _sizes(tried)))


def _turns(rings: list[Ring], down: int, stride: int, centre: float) -> Ints:
    """Where pixels, column by column, begin to lie in a ring or cease to: ring * stride + column * down + row."""
    begin, end, ring = _edges(rings)
    first, last = np.ceil(np.sort(np.stack([begin[:, 0], end[:, 0]]), axis=0) - 0.5).astype(
        np.int64
    )
    number = last - first
    edge = np.repeat(np.arange(len(ring)), number)
    column = np.arange(len(edge)) + np.repeat(first - (np.cumsum(number) - number), number)
    (x, y), (dx, dy) = begin.T, (end - begin).T
    slope = dy / np.where(number > 0, dx, 1)
    row = np.ceil((y - (x - 0.5) * slope)[edge] + column * slope[edge] - centre).astype(np.int64)
    turns: Ints = ring[edge] * stride + column * down + row
    return turns


def _sizes(rings: list[Ring]) -> Floats:
    """Areas in pixels."""
    begin, end, ring = _edges(rings)
    doubled = begin[:, 0] * end[:, 1] - end[:, 0] * begin[:, 1]
    return np.abs(np.bincount(ring, doubled, len(rings))) / 2


def _edges(rings: list[Ring]) -> tuple[Floats, Floats, Ints]:
    """Where each edge begins and ends, [N, 2], and its ring's index."""
    begin = np.concatenate(rings).astype(np.float64)
    lengths = np.array([len(ring) for ring in rings])
    after, ends = np.arange(1, len(begin) + 1), np.cumsum(lengths)
    after[ends - 1] = ends - lengths
    return begin, begin[after], np.repeat(np.arange(len(rings)), lengths)
