import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.contours import external_contours, perimeter, simplify
from samserve.core.runs import runs_of

shapes = st.tuples(st.integers(1, 16), st.integers(1, 16))


def of_opencv(mask: np.ndarray) -> list[list[list[int]]]:
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in found]


def contours(mask: np.ndarray) -> list[list[list[int]]]:
    return [contour.tolist() for contour in external_contours(runs_of(mask))]


def blobs(seed: int, height: int, width: int, grain: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(grain, grain)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > 0


@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(max_examples=400)
def test_contours_of_any_mask_are_opencvs(mask: np.ndarray) -> None:
    assert contours(mask) == of_opencv(mask)


@pytest.mark.parametrize("grain", [3, 9, 40])
def test_contours_of_large_shapes_are_opencvs(grain: int) -> None:
    mask = blobs(grain, 700, 900, grain)
    assert contours(mask) == of_opencv(mask)


def test_a_full_mask_is_a_rectangle_through_its_corner_pixels() -> None:
    assert contours(np.ones((3, 5), bool)) == [[[0, 0], [0, 2], [4, 2], [4, 0]]]


def test_an_island_in_a_hole_has_no_contour() -> None:
    mask = np.ones((7, 7), bool)
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    assert len(contours(mask)) == 1


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0, 20.0])
def test_a_simplified_contour_strays_no_further_than_epsilon(epsilon: float) -> None:
    mask = blobs(1, 300, 400, 5)
    for contour in external_contours(runs_of(mask)):
        simple = simplify(contour, epsilon)
        assert {tuple(point) for point in simple} <= {tuple(point) for point in contour}
        line = simple.astype(np.float32)[:, None]
        strays = [-cv2.pointPolygonTest(line, point.tolist(), True) for point in contour]
        assert np.abs(strays).max() <= epsilon + 1e-4


def test_simplification_saves_as_many_points_as_opencvs() -> None:
    mask = blobs(2, 1000, 1000, 6)
    for contour in external_contours(runs_of(mask)):
        epsilon = 0.001 * perimeter(contour)
        opencv = cv2.approxPolyDP(contour.astype(np.int32)[:, None], epsilon, True)
        assert len(simplify(contour, epsilon)) <= 1.1 * len(opencv) + 2


def test_the_perimeter_is_opencvs_arc_length() -> None:
    contour = np.array([[0, 0], [0, 30], [40, 30]])
    assert perimeter(contour) == pytest.approx(
        cv2.arcLength(contour.astype(np.int32)[:, None], True)
    )


def test_a_contour_shorter_than_epsilon_becomes_one_point() -> None:
    assert len(simplify(np.array([[2, 2], [2, 3], [3, 3]]), 5.0)) == 1
    assert simplify(np.array([[2, 2]]), 0.0).tolist() == [[2, 2]]
