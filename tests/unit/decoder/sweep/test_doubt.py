import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.geometry import Frame, Size
from samserve.decoder.sam.mask_decoder import Candidates
from samserve.decoder.sweep.doubt import depth, doubt

SIZE, FRAME = Size(512, 256), Frame(256)


def candidates(*boxes: tuple[int, int, int, int], ious: tuple[float, ...]) -> Candidates:
    logits = np.full((len(boxes), 64, 64), -1, np.float32)
    for mask, (x0, y0, x1, y1) in zip(logits, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    scores = np.array(ious, np.float32)
    return Candidates(logits, scores, np.ones_like(scores), np.arange(len(boxes)))


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_depth_is_the_distance_along_the_axes(mask: np.ndarray) -> None:
    padded = np.pad(mask.astype(np.uint8), 1)
    expected = cv2.distanceTransform(padded, cv2.DIST_L1, 3)[1:-1, 1:-1]
    assert np.array_equal(depth(mask), expected.astype(int))


def test_candidates_that_agree_have_no_doubt_and_are_asked_in_the_middle() -> None:
    found = candidates((10, 10, 21, 21), (10, 10, 21, 21), ious=(0.9, 0.9))
    agreed = doubt(found, 0, SIZE, FRAME, 0)
    assert agreed.disagreement == 0
    assert agreed.ask.tolist() == [15.5 * 8, 15.5 * 8]  # 64 cells of a frame of 512 x 512


def test_the_click_is_in_the_middle_of_the_largest_disputed_region() -> None:
    found = candidates((10, 10, 20, 20), (10, 10, 39, 21), ious=(0.9, 0.85))
    disputed = doubt(found, 0, SIZE, FRAME, 0)
    assert disputed.disagreement == 1 - 100 / (29 * 11)
    x, y = disputed.ask / 8
    assert 20 < x < 39 and y == 15.5


def test_a_much_worse_candidate_does_not_count() -> None:
    found = candidates((10, 10, 20, 20), (10, 10, 60, 30), ious=(0.9, 0.7))
    assert doubt(found, 0, SIZE, FRAME, 0).disagreement == 0
