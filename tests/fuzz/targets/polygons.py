"""Polygons of any mask have its area exactly, or nearly so with a tolerance."""

from __future__ import annotations

import struct

import numpy as np
from fuzz.values import read_mask
from samserve.core import runs
from samserve.decoder.masks.polygons import CHANGED, polygons

MOST_BYTES = 24
MOST_SIDE = 12


def check(data: bytes) -> None:
    if len(data) < 6:
        return
    height, width = 1 + data[0] % MOST_SIDE, 1 + data[1] % MOST_SIDE
    (tolerance,) = struct.unpack("<f", data[2:6])
    if not 0 <= tolerance < np.inf:
        tolerance = 0.0

    mask = read_mask(data[6:], height, width)
    found = polygons(runs.runs_of(mask), tolerance)
    total = sum(area(polygon.exterior) - sum(map(area, polygon.holes)) for polygon in found)
    change = 0.0 if tolerance == 0 else CHANGED * max(1.0, tolerance)
    assert abs(total - mask.sum()) <= change * mask.sum() + 1e-3
    for polygon in found:
        for ring in (polygon.exterior, *polygon.holes):
            assert np.isfinite(ring).all()
            assert (ring >= 0).all()
            assert (ring <= (width, height)).all()


def area(ring: np.ndarray) -> float:
    (x, y), (next_x, next_y) = ring.T.astype(float), np.roll(ring, -1, 0).T.astype(float)
    return abs((x * next_y - next_x * y).sum()) / 2
