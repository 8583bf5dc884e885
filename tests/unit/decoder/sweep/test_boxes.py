import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.crop import Crop
from samserve.core.geometry import Size
from samserve.decoder.sweep.boxes import near_crop_edge, suppress

corners = st.integers(0, 12).flatmap(
    lambda count: st.tuples(
        arrays(np.int64, (count, 2), elements=st.integers(0, 20)),
        arrays(np.int64, (count, 2), elements=st.integers(1, 20)),
        arrays(np.float64, count, elements=st.sampled_from([0.1, 0.5, 0.9])),
    )
)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """By counting pixels, without the last row and column, as torchvision's floats come out."""
    grids = np.zeros((2, 45, 45), bool)
    for grid, (x0, y0, x1, y1) in zip(grids, (a, b), strict=True):
        grid[y0 : y1 - 1, x0 : x1 - 1] = True
    union = (grids[0] | grids[1]).sum()
    return (grids[0] & grids[1]).sum() / union if union else 0.0


@given(corners, st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_a_box_is_dropped_if_a_better_kept_one_overlaps_it(given_boxes: tuple, most: float) -> None:
    first, sides, scores = given_boxes
    boxes = np.concatenate([first, first + sides], 1)
    kept = suppress(boxes, scores, most).tolist()

    expected: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(iou(boxes[index], boxes[better]) <= most for better in expected):
            expected.append(index)
    assert kept == expected


def test_boxes_at_an_edge_of_the_crop_are_cut_off_unless_it_is_the_images() -> None:
    boxes = np.array([[0, 50, 60, 90], [30, 30, 81, 70], [30, 30, 80, 70], [21, 30, 70, 100]])
    crop, size = Crop(0, 0, 100, 120), Size(300, 120)
    assert near_crop_edge(boxes, crop, size).tolist() == [False, True, False, False]
    assert not near_crop_edge(boxes, Crop(0, 0, 300, 120), size).any()
