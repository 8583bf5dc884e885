from dataclasses import replace

import numpy as np
import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.decoder.sam.single_mask import SingleMaskRule, single_mask_rule

IOUS = np.array([0.99, 0.2, 0.8, 0.5], np.float32)


def four(first: np.ndarray) -> np.ndarray:
    return np.stack([first, *np.zeros((3, *first.shape))])


def graded(certain: int, uncertain: int) -> np.ndarray:
    """`certain` logits far above both cuts, `uncertain` ones between them, the rest far below."""
    return np.repeat([5.0, 0.0, -5.0], [certain, uncertain, 256 - certain - uncertain]).reshape(
        16, 16
    )


@pytest.mark.parametrize(
    ("first", "chosen"),
    [
        (graded(100, 0), 0),
        (graded(98, 2), 0),
        (graded(97, 3), 2),
        (graded(0, 5), 2),
        (graded(0, 0), 0),
    ],
    ids=["sharp", "just stable", "just not", "nothing certain", "empty"],
)
def test_the_single_mask_stands_if_it_is_stable(first: np.ndarray, chosen: int) -> None:
    assert SingleMaskRule().choose(four(first), IOUS) == chosen


def test_a_bundle_may_have_its_own_numbers() -> None:
    bundle = load_bundle(SHIPPED / "nano")
    assert single_mask_rule(bundle) == SingleMaskRule(0.05, 0.98)
    tuned = replace(bundle, facts=bundle.facts | {"single_mask": {"delta": 0.1, "threshold": 0}})
    assert single_mask_rule(tuned).choose(four(graded(0, 5)), IOUS) == 0
