import base64
import io
from typing import Any

import cv2
import numpy as np
import pytest
from samserve.core.errors import InvalidInput
from samserve.gateway.roboflow.mask_input import MAX_CORNERS, fill, read_mask_input


def npy(array: Any, **options: Any) -> str:
    file = io.BytesIO()
    np.save(file, array, **options)
    return base64.b64encode(file.getvalue()).decode()


def read(value: Any, form: str = "binary") -> np.ndarray:
    return np.frombuffer(read_mask_input(value, form), "<f2").reshape(256, 256)


def test_a_polygon_fills_the_pixels_whose_centres_it_encloses() -> None:
    star = np.array([[128, 10], [160, 240], [20, 90], [240, 100], [90, 230]], float)
    corners = np.round((star - 0.5) * 2**16).astype(np.int32)
    expected = np.zeros((256, 256), np.uint8)
    cv2.fillPoly(expected, [corners], 1, shift=16)
    assert (fill(star) != (expected > 0)).sum() < 600  # OpenCV's includes the outline
    assert fill(np.array([[2.0, 3], [2, 5], [6, 5], [6, 3]])).sum() == 8


def test_several_polygons_are_one_mask_of_ones() -> None:
    drawn = read(
        [[[0, 0], [0, 10], [10, 10], [10, 0]], [[5, 5], [5, 20], [20, 20], [20, 5]], []], "json"
    )
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn.sum() == 100 + 225 - 25


@pytest.mark.parametrize("shape", [(256, 256), (1, 256, 256), (1, 1, 256, 256)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, bool])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_file_is_read_in_any_type_and_order(
    shape: tuple[int, ...], dtype: Any, order: Any
) -> None:
    logits = (np.random.default_rng(0).normal(size=(256, 256)) > 0).astype(dtype)
    assert np.array_equal(read(npy(np.asarray(logits.reshape(shape), order=order))), logits)


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        ("polygon", "json", "list of polygons"),
        ([[1, 2]], "json", "pairs of numbers"),
        ([[["a", "b"]]], "json", "pairs of numbers"),
        ([[[0, 0]] * (MAX_CORNERS + 1)], "json", "10,001 corners; the limit is 10,000"),
        ([[1]], "binary", "expected base64"),
        ("%%%", "binary", "empty"),
        ("aGVsbG8=", "binary", "no .npy file"),
        (npy(np.zeros((64, 64), np.float32)), "binary", r"\[64, 64\]"),
        (npy(np.zeros((2, 256, 256), np.float32)), "binary", r"\[2, 256, 256\]"),
        (npy(np.zeros((256, 256), np.float32))[:-400], "binary", "truncated"),
        (npy(np.full((256, 256), np.nan, np.float32)), "binary", "finite"),
        (npy(np.array([{}], object), allow_pickle=True), "binary", "object"),
        (npy(np.zeros((1024, 1024), np.float32)), "binary", "the limit is"),
    ],
)
def test_what_is_no_mask_is_refused(value: Any, form: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected) as refused:
        read_mask_input(value, form)
    assert refused.value.field == "mask_input"


def test_a_header_that_announces_more_than_the_file_has_allocates_nothing() -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 1, 256, 256)}
    )
    with pytest.raises(InvalidInput, match="1000000000"):
        read_mask_input(base64.b64encode(file.getvalue()).decode(), "binary")
