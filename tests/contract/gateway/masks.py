"""Judges of the masks that surfaces answer; OpenCV draws what they draw."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from samserve.core.arrays import Bools

Polygon = Sequence[Sequence[float]]


def iou(a: Bools, b: Bools) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def drawn(polygons: Sequence[Polygon], height: int, width: int) -> Bools:
    """Fill polygons through the centres of pixels, as tools that use OpenCV do."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        if polygon:
            cv2.fillPoly(mask, [np.array(polygon, np.int32)], 1)
    return mask.astype(bool)


def without_holes(mask: Bools) -> Bools:
    """Fill a mask's holes: what surfaces of outer contours can carry."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    return drawn([contour[:, 0].tolist() for contour in contours], *mask.shape)


def of_cvat(points: Sequence[int], height: int, width: int) -> Bools:
    """Read a mask's row runs and box as CVAT does."""
    *lengths, left, top, right, bottom = points
    values = np.arange(len(lengths)) % 2 == 1
    mask = np.zeros((height, width), bool)
    box = np.repeat(values, lengths).reshape(bottom - top + 1, right - left + 1)
    mask[top : bottom + 1, left : right + 1] = box
    return mask
