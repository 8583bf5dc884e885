import json

import numpy as np
from contract.gateway.masks import of_cvat
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.runs import runs_of
from samserve.integrations.cvat_masks import encode_runs, write_pixels, write_rows

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))
masks = shapes.flatmap(lambda shape: arrays(np.bool_, shape))


@given(masks)
@settings(max_examples=300)
def test_any_mask_is_coded_as_the_row_runs_of_its_tight_box(mask: np.ndarray) -> None:
    points = encode_runs(runs_of(mask))
    assert np.array_equal(of_cvat(points, *mask.shape), mask)
    *lengths, left, top, right, bottom = points
    assert all(length > 0 for length in lengths[1:])
    assert all(isinstance(number, int) for number in points)
    if mask.any():
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max(), rows.max())
        assert (left, top, right, bottom) == box


def test_known_masks_are_coded_as_cvats_own_library_codes_them() -> None:
    block = np.zeros((12, 10), bool)
    block[5:10, 2:8] = True
    assert encode_runs(runs_of(block)) == [0, 30, 2, 5, 7, 9]
    assert encode_runs(runs_of(np.zeros((4, 4), bool))) == [1, 0, 0, 0, 0]


@given(masks)
@settings(max_examples=100)
def test_rows_of_zeros_and_ones_are_json(mask: np.ndarray) -> None:
    assert json.loads(write_rows(runs_of(mask))) == mask.astype(int).tolist()


@given(masks)
@settings(max_examples=100)
def test_pixels_of_the_box_are_json(mask: np.ndarray) -> None:
    *pixels, left, top, right, bottom = json.loads(write_pixels(runs_of(mask)))
    part = mask[top : bottom + 1, left : right + 1]
    assert pixels == part.ravel().astype(int).tolist()
    assert part.sum() == mask.sum()
