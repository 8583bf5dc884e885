"""What was found of one concept on one image. Pure.

In the cache it is an entry like an embedding's, of fp16 tensors without loss:

    facts    [3]          presence, in two parts; 1 if there may be more instances, else 0
    numbers  [K, 10]      scores, then the four edges of boxes as shares of the image, in two parts
    logits   [K, L, L]    low-res logits; left out if the head finds boxes only

A number in two parts is the sum of a fp16 number and what it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from samserve.core.arrays import Floats, Halves
from samserve.core.embedding import MOST_TEXT, Shape, SizeLimits
from samserve.core.geometry import Size

FLOOR = 0.05  # instances with a lower score are not kept

FACTS, NUMBERS, LOGITS = "facts", "numbers", "logits"
NUMBERS_EACH = 5  # score and box


@dataclass(frozen=True, slots=True)
class Detections:
    """The instances of one concept, best first.

    Attributes:
        presence: How sure the model is that the concept is on the image, 0 to 1.
        scores: [K], 0 to 1, at least `FLOOR`.
        boxes: [K, 4] x0, y0, x1, y1 in source pixels.
        logits: [K, L, L] low-res logits of the masks; None if the head finds boxes only. The
            model's decoder then draws the masks from the boxes.
        cut_off: Whether there may be more instances than the head can tell.
    """

    presence: float
    scores: Floats
    boxes: Floats
    logits: Halves | None = None
    cut_off: bool = False

    def above(self, threshold: float) -> Detections:
        """Return those with at least this score."""
        count = int(np.count_nonzero(self.scores >= threshold))
        return replace(
            self,
            scores=self.scores[:count],
            boxes=self.boxes[:count],
            logits=None if self.logits is None else self.logits[:count],
            cut_off=self.cut_off and count == len(self.scores),
        )


def to_tensors(found: Detections, size: Size) -> dict[str, Halves]:
    """Return the tensors of an entry, for an image of this size."""
    edges = found.boxes / _edges(size)
    numbers = np.concatenate([found.scores[:, None], edges], 1).astype(np.float32)
    facts = np.append(_in_parts(np.array([found.presence], np.float32)), np.float16(found.cut_off))
    tensors = {FACTS: facts.astype(np.float16), NUMBERS: _in_parts(numbers)}
    return tensors if found.logits is None else {**tensors, LOGITS: found.logits}


def from_tensors(tensors: Mapping[str, Halves], size: Size) -> Detections:
    """Return what the tensors of an entry say; their shapes were checked."""
    facts, numbers = tensors[FACTS], _whole(tensors[NUMBERS])
    return Detections(
        presence=float(_whole(facts[:2])[0]),
        scores=numbers[:, 0],
        boxes=numbers[:, 1:] * _edges(size),
        logits=tensors.get(LOGITS),
        cut_off=bool(facts[2]),
    )


@dataclass(frozen=True, slots=True)
class DetectionsContract:
    """What an entry must be like before it is used.

    Attributes:
        top: Most instances.
        side: Of the low-res logits; 0 if there are none.
        limits: On the size of the source image.
    """

    top: int
    side: int
    limits: SizeLimits

    def problem(self, size: Size, shapes: Mapping[str, Shape]) -> str:
        """Return what is wrong with an entry of this size and these shapes, or nothing."""
        if breach := self.limits.problem(size):
            return breach

        count = shapes.get(NUMBERS, (0,))[0]
        expected: dict[str, Shape] = {FACTS: (3,), NUMBERS: (count, 2 * NUMBERS_EACH)}
        if self.side:
            expected[LOGITS] = (count, self.side, self.side)
        if count > self.top or dict(shapes) != expected:
            return f"tensors {str(dict(shapes))[:MOST_TEXT]}; expected {expected}"
        return ""


def _edges(size: Size) -> Floats:
    return np.array([size.width, size.height, size.width, size.height], np.float32)


def _in_parts(numbers: Floats) -> Halves:
    """[..., N] -> [..., 2 N]: the nearest fp16 numbers, then what they leave."""
    coarse = numbers.astype(np.float16)
    return np.concatenate([coarse, (numbers - coarse).astype(np.float16)], -1)


def _whole(parts: Halves) -> Floats:
    """[..., 2 N] -> [..., N]."""
    coarse, rest = np.split(parts.astype(np.float32), 2, -1)
    whole: Floats = coarse + rest
    return whole
