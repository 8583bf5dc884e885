import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from samserve.core.rle import decode_rle, encode_rle, read_rle, runs_of_lengths
from samserve.core.runs import runs_of

shapes = st.tuples(st.integers(1, 40), st.integers(1, 60))


@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(max_examples=200)
def test_any_mask_is_encoded_as_by_pycocotools_and_decoded_again(mask: np.ndarray) -> None:
    written = encode_rle(runs_of(mask))
    assert written == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(decode_rle(written, *mask.shape), mask)
    assert np.array_equal(read_rle(written, *mask.shape).changes, runs_of(mask).changes)


@pytest.mark.parametrize("shape", [(1, 1), (37, 4096), (4096, 37), (1500, 2000)])
def test_long_runs_are_encoded_as_by_pycocotools(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2 + 1, shape[1] // 3 :] = True
    written = encode_rle(runs_of(mask))
    assert written == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(decode_rle(written, *shape), mask)


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_of_one_value_is_one_run(value: bool) -> None:
    mask = np.full((5, 7), value)
    assert np.array_equal(decode_rle(encode_rle(runs_of(mask)), 5, 7), mask)


def test_run_lengths_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="not 4 x 4"):
        decode_rle(encode_rle(runs_of(np.ones((3, 3), bool))), 4, 4)


@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
def test_run_lengths_are_read_as_runs(mask: np.ndarray) -> None:
    runs = runs_of(mask)
    assert np.array_equal(read_rle(encode_rle(runs), *mask.shape).changes, runs.changes)


def test_runs_of_no_pixels_change_nothing() -> None:
    runs = runs_of_lengths(np.array([0, 2, 0, 1, 3, 0]), 2, 3)
    assert runs.changes.tolist() == [0, 3]
    with pytest.raises(ValueError, match="negative"):
        runs_of_lengths(np.array([-1, 7]), 2, 3)
