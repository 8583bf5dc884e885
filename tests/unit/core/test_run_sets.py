import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.crop import Crop, crop_id
from samserve.core.geometry import Size
from samserve.core.run_sets import combine, from_spans, intersection, inverse, place, union
from samserve.core.runs import dense, runs_of, spans

shapes = st.tuples(st.integers(1, 30), st.integers(1, 30))
masks = shapes.flatmap(lambda shape: arrays(np.bool_, shape))
pairs = shapes.flatmap(lambda shape: arrays(np.bool_, (3, *shape)))


@given(pairs, st.integers(1, 3))
def test_combined_runs_are_combined_pixels(stack: np.ndarray, at_least: int) -> None:
    combined = combine([runs_of(mask) for mask in stack], at_least)
    assert np.array_equal(dense(combined), stack.sum(0) >= at_least)
    a, b = (runs_of(mask) for mask in stack[:2])
    size = Size(stack.shape[2], stack.shape[1])
    assert np.array_equal(dense(intersection(a, b)), stack[0] & stack[1])
    assert np.array_equal(dense(union([a, b], size)), stack[0] | stack[1])
    assert not dense(union([], size)).any()


@given(masks)
def test_inverse_and_spans_keep_the_pixels(mask: np.ndarray) -> None:
    runs = runs_of(mask)
    size = Size(mask.shape[1], mask.shape[0])
    assert np.array_equal(dense(inverse(runs)), ~mask)
    assert np.array_equal(inverse(inverse(runs)).changes, runs.changes)
    assert np.array_equal(from_spans(spans(runs), size).changes, runs.changes)


@given(masks, *[st.integers(0, 5)] * 4)
def test_a_placed_mask_lies_in_its_crop(
    mask: np.ndarray, left: int, top: int, right: int, bottom: int
) -> None:
    height, width = mask.shape
    crop = Crop(left, top, left + width, top + height)
    size = Size(left + width + right, top + height + bottom)
    expected = np.pad(mask, ((top, bottom), (left, right)))
    placed = place(runs_of(mask), crop, size)
    assert np.array_equal(placed.changes, runs_of(expected).changes)


def test_a_crops_id_depends_on_the_image_and_the_box() -> None:
    ids = {
        crop_id(image, crop)
        for image in ("a" * 64, "b" * 64)
        for crop in (Crop(0, 0, 1, 1), Crop(0, 0, 1, 2), Crop(0, 0, 11, 1))
    }
    assert len(ids) == 6 and all(len(each) == 64 for each in ids)
