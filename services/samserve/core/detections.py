"""What was found of one concept on one image. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from samserve.core.arrays import Floats, Halves

FLOOR = 0.05  # instances with a lower score are not kept


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
