"""How much the candidates at a point disagree, and where a click would help most. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Bools, Floats, Ints
from samserve.core.geometry import Frame, Size, fit
from samserve.decoder.sam.mask_decoder import Candidates

NEARLY_AS_GOOD = 0.1  # predicted IoU by which a candidate may be worse and still count


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """What is uncertain about a region.

    Attributes:
        disagreement: 0 to 1, one minus the candidates' intersection over their union.
        ask: [2], (x, y) in pixels of the source image: where a click would help most.
    """

    disagreement: float
    ask: Floats


def doubt(candidates: Candidates, chosen: int, size: Size, frame: Frame, threshold: float) -> Doubt:
    """Compare the candidates of one point, on low-res logits.

    SAM's candidates are the levels of an ambiguous click: whole, part and part of it. Where they
    differ, the model does not know whether the pixels belong to the object. A click in the middle
    of the largest such region decides most of it, as a person's corrective click does in SAM's
    training, which is drawn from the region of the error. If they agree, it is in the middle of the
    region itself.

    Args:
        candidates: Of the point.
        chosen: Index of the candidate that is proposed.
        size: Of the source image.
        frame: The model's mask frame.
        threshold: Logits above this are the mask.
    """
    inner = fit(size, frame)
    cell = frame.side / candidates.logits.shape[1]
    rows, columns = int(np.ceil(inner.height / cell)), int(np.ceil(inner.width / cell))

    ious = candidates.predicted_iou
    counted = ious >= ious[chosen] - NEARLY_AS_GOOD
    masks: Bools = candidates.logits[counted, :rows, :columns] > threshold
    any_of: Bools = np.logical_or.reduce(masks)
    all_of: Bools = np.logical_and.reduce(masks)

    pixels = int(any_of.sum())
    disagreement = 1 - int(all_of.sum()) / pixels if pixels else 0.0
    disputed = any_of & ~all_of
    if not disputed.any():
        disputed = candidates.logits[chosen, :rows, :columns] > threshold

    row, column = np.divmod(int(np.argmax(depth(disputed))), columns)
    scale = cell * np.array([size.width / inner.width, size.height / inner.height])
    ask = (np.array([column, row]) + 0.5) * scale
    most = np.array([size.width, size.height])
    return Doubt(disagreement, np.minimum(ask, most).astype(np.float32))


def depth(mask: Bools) -> Ints:
    """Return each pixel's distance to the nearest one off the mask, in steps along the axes.

    Outside the image counts as off the mask. 0 off the mask.
    """
    padded = np.pad(mask, 1)
    most = sum(padded.shape)
    distance = np.where(padded, most, 0)
    for axis in (0, 1):
        shape = [-1 if each == axis else 1 for each in (0, 1)]
        steps = np.arange(padded.shape[axis]).reshape(shape)
        forward = np.minimum.accumulate(distance - steps, axis) + steps
        backward = np.flip(np.minimum.accumulate(np.flip(distance + steps, axis), axis), axis)
        distance = np.minimum(forward, backward - steps)
    inside: Ints = distance[1:-1, 1:-1]
    return inside
