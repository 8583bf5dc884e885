import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core import fill as filling
from samserve.core.fill import TooManyCrossings, fill
from samserve.core.geometry import Size
from samserve.core.runs import dense, runs_of
from samserve.decoder.masks.polygons import polygons

corners = st.integers(3, 8).flatmap(
    lambda count: arrays(np.float32, (count, 2), elements=st.floats(-5, 25, width=16))
)


def inside(ring: np.ndarray, x: float, y: float) -> bool:
    """By the crossings to the left of a point."""
    odd = False
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        if (x0 <= x) != (x1 <= x) and y0 + (x - x0) * (y1 - y0) / (x1 - x0) < y:
            odd = not odd
    return odd


@given(st.lists(corners, max_size=3))
def test_a_pixel_is_on_the_mask_if_its_centre_is_inside(rings: list[np.ndarray]) -> None:
    size = Size(20, 17)
    mask = dense(fill(rings, size))
    rings = [ring.astype(np.float64) for ring in rings]
    for y, x in np.random.default_rng(0).integers(0, (17, 20), (60, 2)):
        expected = sum(inside(ring, x + 0.5, y + 0.5 + 1e-9) for ring in rings) % 2 == 1
        below = sum(inside(ring, x + 0.5, y + 0.5 - 1e-9) for ring in rings) % 2 == 1
        assert mask[y, x] in (expected, below)  # they differ if an edge goes through the centre


@given(arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_masks_own_polygons_fill_it(mask: np.ndarray) -> None:
    outline = runs_of(mask)
    rings = [ring for each in polygons(outline, 0) for ring in (each.exterior, *each.holes)]
    assert np.array_equal(fill(rings, Size(mask.shape[1], mask.shape[0])).changes, outline.changes)


def test_polygons_that_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "MOST_CROSSINGS", 30)
    ring = np.array([[-1e9, -1e9], [1e9, 0], [1e9, 1e9]], np.float32)
    with pytest.raises(TooManyCrossings, match="cross 40 columns; the limit is 30"):
        fill([ring], Size(20, 20))
