import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samserve.core.geometry import Frame, Size, fit, to_frame


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        (Size(1024, 1024), Size(1024, 1024)),
        (Size(640, 427), Size(1024, 683)),
        (Size(427, 640), Size(683, 1024)),
        (Size(2130, 1960), Size(1024, 942)),
        (Size(37, 900), Size(42, 1024)),
        (Size(1, 1), Size(1024, 1024)),
        (Size(1, 5000), Size(1, 1024)),
    ],
)
def test_the_longest_side_fits_the_frame(size: Size, inner: Size) -> None:
    assert fit(size, Frame(1024)) == inner


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_corners_of_the_image_are_corners_in_the_frame(width: int, height: int) -> None:
    size = Size(width, height)
    inner = fit(size, Frame(1024))
    corners = to_frame(np.array([[0, 0], [width, height]], np.float32), size, Frame(1024))
    assert np.allclose(corners, [[0, 0], [inner.width, inner.height]], atol=1e-3)
    assert 1 <= inner.width <= 1024
    assert 1 <= inner.height <= 1024
    assert 1024 in (inner.width, inner.height)
