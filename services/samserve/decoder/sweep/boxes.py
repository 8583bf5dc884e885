"""Boxes of masks: which are cut off, and which overlap. Pure.

As in SAM, the last row and column of a box are inclusive where boxes are compared.
"""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Array, Bools, Doubles, Ints
from samserve.core.crop import Crop
from samserve.core.geometry import Size

EDGE_PIXELS = 20  # a box so near to its crop's edge is cut off by it; SAM's number


def near_crop_edge(boxes: Ints, crop: Crop, size: Size) -> Bools:
    """Return which boxes touch an edge of their crop that is none of the image's, [N].

    Such a mask is probably cut off. Source: SAM, is_box_near_crop_edge.

    Args:
        boxes: [N, 4], in pixels of the whole image, right and bottom exclusive.
        crop: The part of the image that they were found in.
        size: Of the whole image.
    """
    inclusive = boxes - (0, 0, 1, 1)
    crop_edges = np.array([crop.x0, crop.y0, crop.x1, crop.y1])
    image_edges = np.array([0, 0, size.width, size.height])
    near_crop = np.abs(inclusive - crop_edges) <= EDGE_PIXELS
    near_image = np.abs(inclusive - image_edges) <= EDGE_PIXELS
    near: Bools = (near_crop & ~near_image).any(1)
    return near


def suppress(boxes: Ints, scores: Array, threshold: float) -> Ints:
    """Return the indices of the boxes to keep, the best first.

    A box is dropped if a better one that is kept overlaps it by an IoU over the threshold. Of equal
    scores the earlier box is the better one. Source: torchvision, nms.

    Args:
        boxes: [N, 4], right and bottom exclusive.
        scores: [N].
        threshold: IoU, 0 to 1.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    if not len(order):
        return order.astype(np.int64)

    edges = (boxes - (0, 0, 1, 1)).astype(np.float64)
    remaining = order
    kept: list[int] = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(int(best))
        remaining = remaining[~(_ious(edges[best], edges[remaining]) > threshold)]

    return np.array(kept, np.int64)


def _ious(box: Doubles, others: Doubles) -> Doubles:
    """Return the IoU of a box with each other one, [N]; NaN if both have no area."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(1)
    total = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - overlap
    with np.errstate(invalid="ignore"):
        ious: Doubles = overlap / total
    return ious
