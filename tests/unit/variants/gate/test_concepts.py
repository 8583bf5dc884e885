"""The gate for concept heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from samserve.variants.gate.concepts import HeadAnswer, judge_head, mask_ious

SIDE = 64


def disc(x: int, y: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (radius - np.hypot(columns - x, rows - y)).astype(np.float16)


GOOD = HeadAnswer(
    "coin on a table",
    presence=0.97,
    scores=np.array([0.933, 0.7, 0.3, 0.04], np.float32),
    masks=np.stack([disc(20, 20, 12), disc(45, 40, 10), disc(12, 50, 8), disc(55, 8, 5)]),
)
OTHER = replace(GOOD, name="cup on a table")


def reasons(got: HeadAnswer) -> list[str]:
    report = judge_head([GOOD, OTHER], [got, OTHER])
    assert report.passed == (not report.reasons)
    return report.reasons


def test_the_same_answer_passes_also_with_instances_in_another_order() -> None:
    assert reasons(GOOD) == []
    order = [1, 0, 2, 3]
    exchanged = replace(GOOD, scores=GOOD.scores[order], masks=GOOD.masks[order])
    assert reasons(exchanged) == []


def test_small_differences_pass() -> None:
    near = replace(GOOD, scores=GOOD.scores - 0.02, presence=0.96)
    assert reasons(near) == []


def test_an_engine_that_loses_an_object_silently_is_refused() -> None:
    # As TensorRT's engines of SAM 3's detector on one kind of GPU: NVIDIA/TensorRT #4837.
    lost = replace(GOOD, scores=np.array([0.045, 0.7, 0.3, 0.04], np.float32))
    assert reasons(lost) == [
        "a score of coin on a table differs by 0.888, allowed: 0.03",
        "1 instances of coin on a table are found by one head alone",
    ]
    invented = judge_head([lost], [GOOD])
    assert not invented.passed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"presence": 0.9}, "the presence of coin on a table differs by 0.070"),
        ({"masks": GOOD.masks + np.float16(2)}, "mean IoU of the instances"),
        ({"masks": GOOD.masks[[0, 0, 2, 3]]}, "IoU of an instance of coin on a table is 0"),
        ({"scores": np.full(4, np.nan, np.float32)}, "4 values that are not finite"),
        ({"masks": np.full_like(GOOD.masks, np.inf)}, "values that are not finite"),
    ],
)
def test_what_differs_is_named(changed: dict[str, object], reason: str) -> None:
    assert any(reason in each for each in reasons(replace(GOOD, **changed)))


def test_answers_without_instances_prove_nothing() -> None:
    empty = replace(GOOD, scores=np.full(4, 0.01, np.float32))
    assert judge_head([empty], [empty]).reasons == [
        "no instance scored enough to be compared; use other images or phrases"
    ]


def test_empty_masks_are_the_same() -> None:
    empty = np.full((1, 4, 4), -1, np.float16)
    assert mask_ious(empty, empty).tolist() == [[1.0]]
