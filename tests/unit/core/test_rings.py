import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.rings import OUTSIDE, trace
from samserve.core.runs import runs_of

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))
masks = shapes.flatmap(lambda shape: arrays(np.bool_, shape))


@given(masks)
@settings(max_examples=200)
def test_with_diagonals_there_is_one_exterior_for_each_part_that_touches_by_corners(
    mask: np.ndarray,
) -> None:
    traced = trace(runs_of(mask), diagonal=True)
    parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    holes = cv2.connectedComponents(background, connectivity=4)[0] - 2
    assert traced.is_hole.count(False) == parts
    assert traced.is_hole.count(True) == holes


def test_a_part_in_a_hole_has_the_hole_around_it() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    mask[0, 8] = True  # beside them
    for diagonal in (False, True):
        traced = trace(runs_of(mask), diagonal=diagonal)
        names = [
            ("hole" if hole else "part", around)
            for hole, around in zip(traced.is_hole, traced.around, strict=True)
        ]
        assert names[:3] == [("part", OUTSIDE), ("hole", 0), ("part", 1)]
        assert names[3:] == ([] if diagonal else [("part", OUTSIDE)])
