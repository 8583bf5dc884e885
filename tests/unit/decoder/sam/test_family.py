from dataclasses import replace

import numpy as np
import pytest
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.bundles.variant import BrokenBundle
from samserve.decoder.sam.family import SingleMask, family_of, single_mask

IOUS = np.array([0.99, 0.2, 0.8, 0.5], np.float32)


def four(first: np.ndarray) -> np.ndarray:
    return np.stack([first, *np.zeros((3, *first.shape))])


def graded(sure: int, unsure: int) -> np.ndarray:
    """`sure` logits far above the cuts, `unsure` ones between them, the rest far below."""
    return np.repeat([5.0, 0.0, -5.0], [sure, unsure, 256 - sure - unsure]).reshape(16, 16)


@pytest.mark.parametrize(
    ("first", "chosen"),
    [
        (graded(100, 0), 0),
        (graded(98, 2), 0),
        (graded(97, 3), 2),
        (graded(0, 5), 2),
        (graded(0, 0), 0),
    ],
    ids=["sharp", "just stable", "just not", "nothing sure", "empty"],
)
def test_the_single_mask_stands_if_it_is_stable(first: np.ndarray, chosen: int) -> None:
    assert SingleMask().choose(four(first), IOUS) == chosen


def test_a_bundle_may_have_its_own_numbers() -> None:
    bundle = load_bundle(SHIPPED / "nano")
    assert single_mask(bundle) == SingleMask(0.05, 0.98)
    tuned = replace(bundle, facts=bundle.facts | {"single_mask": {"delta": 0.1, "threshold": 0}})
    assert single_mask(tuned).choose(four(graded(0, 5)), IOUS) == 0


def test_an_unknown_family_is_refused_with_those_known() -> None:
    bundle = replace(load_bundle(SHIPPED / "nano"), family="sam9")
    with pytest.raises(BrokenBundle, match=r"'sam9'.*sam, sam2, sam_hq"):
        family_of(bundle)
