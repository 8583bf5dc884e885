"""What the decoders of one family of models have in common, and those of another have not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samserve.bundles.bundle import Bundle
from samserve.bundles.variant import BrokenBundle

Floats = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Family:
    """tokens: the weights whose rows go before a prompt's own tokens: the IoUs', the masks', then any other; empty: the
    rearranged decoder does not know this family. fine: the embedding's maps that the upscalings add, the coarser one
    first. epsilon: of the transformer's norms. sigmoid: of the predicted IoUs. always_padded: see prompt.tokens.
    dynamic: whether the single mask gives way to one of the three (SingleMask).
    """

    tokens: tuple[str, ...] = ("iou_token", "mask_tokens")
    fine: tuple[str, ...] = ()
    epsilon: float = 1e-6
    sigmoid: bool = False
    always_padded: bool = False
    dynamic: bool = False


FAMILIES = {
    "sam": Family(),
    "sam_hq": Family(tokens=()),
    "sam2": Family(
        tokens=(
            "iou_token",
            "mask_tokens",
            "obj_score_token",
        ),  # in any order: attention does not see it
        fine=("fine_1", "fine_0"),
        epsilon=1e-5,
        sigmoid=True,
        always_padded=True,
        dynamic=True,
    ),
}


@dataclass(frozen=True, slots=True)
class SingleMask:
    """SAM 2's rule for a prompt that wants one mask: mask 0 if it hardly changes when cut at +delta and at -delta
    instead of 0, else the best of the other three. Source: SAM 2, MaskDecoder._dynamic_multimask_via_stability.
    """

    delta: float = 0.05
    threshold: float = 0.98

    def choose(self, logits: Floats, ious: Floats) -> int:
        """[4, L, L] and [4] -> the number of the mask."""
        sure, possible = (np.count_nonzero(logits[0] > cut) for cut in (self.delta, -self.delta))
        return 0 if sure >= self.threshold * possible else 1 + int(np.argmax(ious[1:]))


def family_of(bundle: Bundle) -> Family:
    """Raises BrokenBundle for a family that is not known."""
    if bundle.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise BrokenBundle(
            f"{bundle.path} is of the family {bundle.family!r}; this samserve knows: {known}"
        )
    return FAMILIES[bundle.family]


def single_mask(bundle: Bundle) -> SingleMask:
    """The rule with the bundle's own numbers, if it has any."""
    return SingleMask(**bundle.facts.get("single_mask", {}))
