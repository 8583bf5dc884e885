"""SAM 2's choice of the mask that answers a prompt for a single mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.bundles.bundle import Bundle
from samserve.core.arrays import Floats


@dataclass(frozen=True, slots=True)
class SingleMaskRule:
    """Mask 0 if it is stable, otherwise the best of the other three.

    Source: SAM 2, MaskDecoder._dynamic_multimask_via_stability.

    Attributes:
        delta: Mask 0 is cut at +delta and at -delta, in logits.
        threshold: Mask 0 is stable if the two cuts have at least this IoU.
    """

    delta: float = 0.05
    threshold: float = 0.98

    def choose(self, logits: Floats, ious: Floats) -> int:
        """Return the number of the mask.

        Args:
            logits: [4, L, L], low-res.
            ious: [4], predicted.
        """
        certain = np.count_nonzero(logits[0] > self.delta)
        possible = np.count_nonzero(logits[0] > -self.delta)
        if certain >= self.threshold * possible:
            return 0

        return 1 + int(np.argmax(ious[1:]))


def single_mask_rule(bundle: Bundle) -> SingleMaskRule:
    """Return the rule with the bundle's own numbers, if model.json has any."""
    return SingleMaskRule(**bundle.facts.get("single_mask", {}))
