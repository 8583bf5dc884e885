import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.runs import runs_of
from samserve.decoder.masks.polygons import Polygon, polygons

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def filled(found: list[Polygon], shape: tuple[int, int]) -> np.ndarray:
    """Fill by the even-odd rule: a pixel is inside if a line from its centre to the left meets an
    odd number of edges.
    """
    inside, centres = np.zeros(shape, bool), np.arange(shape[1]) + 0.5
    for ring in (
        ring.astype(float) for polygon in found for ring in (polygon.exterior, *polygon.holes)
    ):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
            low, high = sorted((y0, y1))
            for row in range(int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))):
                inside[row] ^= centres > x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    return inside


def signed_area(ring: np.ndarray) -> float:
    """Positive if the ring is clockwise on the screen."""
    x, y = ring.T.astype(float)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def blobs(seed: int, height: int, width: int, grain: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(grain, grain)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > 0


@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
@settings(max_examples=150)
def test_without_tolerance_polygons_are_the_masks_parts_exactly(mask: np.ndarray) -> None:
    found = polygons(runs_of(mask), 0)
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(found) == number - 1
    for polygon in found:
        part = filled([polygon], mask.shape)
        assert len(np.unique(labels[part])) == 1
        assert np.array_equal(part, labels == labels[part][0])
        assert (
            signed_area(polygon.exterior)
            == -filled([Polygon(polygon.exterior, [])], mask.shape).sum()
        )
        assert all(signed_area(hole) > 0 for hole in polygon.holes)


@given(
    st.integers(0, 999),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(2, 16),
    st.sampled_from([0.3, 0.5, 0.8, 1]),
)
@settings(max_examples=100)
def test_a_tolerance_up_to_a_pixel_changes_at_most_a_hundredth(
    seed: int, height: int, width: int, grain: int, tolerance: float
) -> None:
    mask = blobs(seed, height, width, grain)
    assert iou(filled(polygons(runs_of(mask), tolerance), mask.shape), mask) >= 0.99


def drawn(shape: str) -> np.ndarray:
    canvas = np.zeros((300, 400), np.uint8)
    if shape == "rings":
        for radius in (140, 100, 60, 20):
            cv2.circle(canvas, (200, 150), radius, 1, 9)
    elif shape == "thin ring":
        cv2.circle(canvas, (200, 150), 130, 1, 1)
    elif shape == "line":
        cv2.line(canvas, (5, 7), (390, 280), 1, 3)
    elif shape == "pixel":
        canvas[5, 3] = 1
    elif shape == "small disc":
        cv2.circle(canvas, (50, 60), 7, 1, -1)
    elif shape == "disc with holes":
        cv2.circle(canvas, (200, 150), 140, 1, -1)
        canvas[100:110, 100:300] = canvas[150:151, 150:152] = canvas[200:230, 180:260:4] = 0
    else:
        canvas[:] = 1
    return canvas > 0


SHAPES = ["rings", "thin ring", "line", "pixel", "small disc", "disc with holes", "all"]


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_and_small_shapes_and_holes_survive(shape: str) -> None:
    mask = drawn(shape)
    found = polygons(runs_of(mask), 1)
    assert iou(filled(found, mask.shape), mask) >= 0.99
    exact = polygons(runs_of(mask), 0)
    assert [len(p.holes) for p in found] == [len(p.holes) for p in exact]
    size = sum(-signed_area(p.exterior) - sum(map(signed_area, p.holes)) for p in found)
    assert size == pytest.approx(mask.sum(), rel=0.011)


def test_a_hole_belongs_to_the_part_around_it() -> None:
    found = polygons(runs_of(drawn("rings")), 0)
    assert sorted(len(p.holes) for p in found) == [1, 1, 1, 1]
    for polygon in found:
        (hole,) = polygon.holes
        assert (hole.min(0) > polygon.exterior.min(0)).all()
        assert (hole.max(0) < polygon.exterior.max(0)).all()
        assert (hole.min(0) - polygon.exterior.min(0)).max() < 15


def test_a_pixel_is_the_square_around_its_centre() -> None:
    (polygon,) = polygons(runs_of(drawn("pixel")), 1)
    assert polygon.exterior.tolist() == [[3, 5], [3, 6], [4, 6], [4, 5]]


def test_more_tolerance_leaves_fewer_corners_and_strays_no_further() -> None:
    mask = np.pad(blobs(3, 300, 400, 5), 1)
    outline = cv2.distanceTransform(
        1 - cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))),
        cv2.DIST_L2,
        5,
    )
    corners = []
    for tolerance in (0, 1, 3, 10):
        found = polygons(runs_of(mask), tolerance)
        corners.append(sum(len(ring) for p in found for ring in (p.exterior, *p.holes)))
        wrong = filled(found, mask.shape) != mask
        assert not wrong.any() or outline[wrong].max() <= tolerance
    assert corners == sorted(corners, reverse=True)
    assert corners[1] < corners[0] / 5


def test_no_mask_no_polygon() -> None:
    assert polygons(runs_of(np.zeros((5, 7), bool)), 1) == []


@pytest.mark.parametrize("tolerance", [50, 1e6, 1e38])
def test_an_absurd_tolerance_still_leaves_polygons(tolerance: float) -> None:
    for polygon in polygons(runs_of(drawn("rings")), tolerance):
        assert all(len(ring) > 2 for ring in (polygon.exterior, *polygon.holes))
