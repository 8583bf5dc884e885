import cv2
import numpy as np
import pytest
from samserve.decoder.masks.kernel import scale_bilinear, simplify


@pytest.mark.parametrize("cell", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (9, 12)])
def test_scaling_equals_opencvs(cell: int, shape: tuple[int, int]) -> None:
    logits = np.random.default_rng(cell).normal(0, 6, (20, 20)).astype(np.float32)
    part = logits[3 : 3 + shape[0], 2 : 2 + shape[1]]
    expected = cv2.resize(part, None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(scale_bilinear(part, cell), expected, atol=1e-5)


def distance(points: np.ndarray, ring: np.ndarray) -> float:
    """Return how far points are from a closed ring at most."""
    begin, along = ring, np.roll(ring, -1, 0) - ring
    share = ((points[:, None] - begin) * along).sum(2) / np.maximum((along**2).sum(1), 1e-12)
    nearest = begin + np.clip(share, 0, 1)[..., None] * along
    return float(np.linalg.norm(points[:, None] - nearest, axis=2).min(1).max())


@pytest.mark.parametrize("slack", [0.1, 0.5, 2.0, 20.0])
def test_a_simplified_line_strays_by_no_more_than_the_slack(slack: float) -> None:
    rng = np.random.default_rng(1)
    rings = [
        np.cumsum(rng.normal(0, 2, (count, 2)), 0).astype(np.float32) for count in (3, 40, 400)
    ]
    ends = np.cumsum([len(ring) for ring in rings])
    kept = simplify(np.concatenate(rings), ends, slack)
    for ring, keeps in zip(rings, np.split(kept, ends[:-1]), strict=True):
        assert distance(ring, ring[keeps]) <= slack + 1e-4


def test_a_rectangle_keeps_its_corners_alone() -> None:
    side = np.arange(10, dtype=np.float32)
    zero, nine = np.zeros_like(side), np.full_like(side, 10)
    edges = [(side, zero), (nine, side), (10 - side, nine), (zero, 10 - side)]
    ring = np.concatenate([np.stack(edge, 1) for edge in edges])
    ring = np.roll(ring, 5, 0)  # begin in the middle of an edge
    kept = simplify(ring, np.array([len(ring)]), 0.5)
    assert sorted(map(tuple, ring[kept].tolist())) == [(0, 0), (0, 10), (10, 0), (10, 10)]


def test_rings_of_one_point_and_none_are_kept_as_they_are() -> None:
    assert simplify(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 1).tolist() == []
    assert simplify(np.ones((4, 2), np.float32), np.array([1, 1, 4]), 1).sum() == 2


def test_arrays_of_another_size_never_reach_the_kernel() -> None:
    with pytest.raises(ValueError, match="logits"):
        scale_bilinear(np.zeros((0, 4), np.float32), 4)
    with pytest.raises(ValueError, match="cell"):
        scale_bilinear(np.zeros((4, 4), np.float32), 65)
    with pytest.raises(ValueError, match="ends"):
        simplify(np.zeros((4, 2), np.float32), np.array([5]), 1)
    with pytest.raises(ValueError, match="corners"):
        simplify(np.zeros((4, 3), np.float32), np.array([4]), 1)
