"""Contours as OpenCV's findContours draws them, through the centres of pixels. Pure.

Labeling products that were written for OpenCV expect its polygons: the outer contours only, pixels
that touch at a corner in one part, corners at pixel centres as whole numbers. Ours lie on the edges
of pixels and have holes.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Array, Doubles, Ints
from samserve.core.rings import OUTSIDE, trace
from samserve.core.runs import Runs

Contour = Ints  # [N, 2], (x, y) of pixels; the last one is a neighbour of the first


def external_contours(runs: Runs) -> list[Contour]:
    """Return the contours of a mask's outermost parts, the lowest first, without holes.

    Equal to cv2.findContours with RETR_EXTERNAL and CHAIN_APPROX_SIMPLE: counter-clockwise on the
    screen from the leftmost pixel of the top row, and only pixels at which the direction changes.
    """
    outlines = trace(runs, diagonal=True)
    rings = [
        ring.astype(np.int64)
        for ring, hole, around in zip(
            outlines.rings, outlines.is_hole, outlines.around, strict=True
        )
        if not hole and around == OUTSIDE
    ]
    contours = [_through_centres(_from_the_top(ring)) for ring in rings]
    return sorted(contours, key=lambda contour: (contour[0, 1], contour[0, 0]), reverse=True)


def perimeter(contour: Array) -> float:
    """Return the length of a closed line of points [N, 2]."""
    return float(np.hypot(*(np.roll(contour, -1, 0) - contour).T).sum())


def area(contour: Array) -> float:
    """Return the area inside a closed line of points [N, 2]."""
    x, y = contour.astype(np.float64).T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def simplify(contour: Contour, epsilon: float) -> Contour:
    """Leave points out where the closed line then strays by no more than `epsilon` pixels.

    The line begins at the point farthest from the first one. A contour that is shorter than
    `epsilon` becomes one point. Source: Douglas and Peucker, 1973, with distances to the segment.
    """
    points = contour.astype(np.float64)
    first = _farthest(points, 0)
    second = _farthest(points, first)
    if np.hypot(*(points[second] - points[first])) <= epsilon:
        return contour[first : first + 1]

    # Two chains: from the first of the two points to the second, and on to the first again.
    ring = np.roll(points, -first, 0)
    closed = np.concatenate([ring, ring[:1]])
    middle = (second - first) % len(points)
    kept = np.zeros(len(closed), bool)
    kept[[0, middle]] = True
    chains = [(0, middle), (middle, len(closed) - 1)]
    while chains:
        begin, end = chains.pop()
        if end - begin < 2:
            continue
        distances = _distances(closed[begin + 1 : end], closed[begin], closed[end])
        at = begin + 1 + int(distances.argmax())
        if distances[at - begin - 1] > epsilon:
            kept[at] = True
            chains += [(begin, at), (at, end)]

    simplified: Contour = np.roll(contour, -first, 0)[kept[:-1]]
    return simplified


def _from_the_top(ring: Ints) -> Ints:
    """Begin a ring of corners with the leftmost one of the top row."""
    top = np.flatnonzero(ring[:, 1] == ring[:, 1].min())
    return np.roll(ring, -top[ring[top, 0].argmin()], 0)


def _through_centres(ring: Ints) -> Contour:
    """Return the pixels along an exterior ring, where the direction changes.

    Args:
        ring: [N, 2], corners on the edges of pixels; the mask is on the left of each edge.
    """
    # The first and the last pixel of each edge, from the corner where it begins or ends.
    following = np.roll(ring, -1, 0)
    step_x, step_y = np.sign(following - ring).T
    left, right, up, down = step_x < 0, step_x > 0, step_y < 0, step_y > 0
    first = ring - np.stack([left | up, right | up], 1)
    last = following - np.stack([right | up, right | down], 1)
    pixels = np.stack([first, last], 1).reshape(-1, 2)

    # Edges meet in one pixel, or in two that touch at a corner.
    moves = (np.roll(pixels, -1, 0) != pixels).any(1)
    pixels = pixels[moves] if moves.any() else pixels[:1]

    # Keep the pixels that are left in another direction than they are reached in.
    steps = np.sign(np.roll(pixels, -1, 0) - pixels)
    turns = (steps != np.roll(steps, 1, 0)).any(1)
    return pixels[turns] if len(pixels) > 1 else pixels


def _farthest(points: Doubles, index: int) -> int:
    return int(((points - points[index]) ** 2).sum(1).argmax())


def _distances(points: Doubles, begin: Doubles, end: Doubles) -> Doubles:
    """[N], from points [N, 2] to the segment between two points."""
    line = end - begin
    along = np.clip((points - begin) @ line / max(float(line @ line), 1e-9), 0, 1)
    distances: Doubles = np.hypot(*(points - begin - along[:, None] * line).T)
    return distances
