"""Upscaling against torch's interpolate, the removal of small regions against OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samserve.core.geometry import Frame, Size, fit
from samserve.sdk.upscale import fill_small_regions, resize, upscale

SIDES = st.integers(1, 90)


def interpolate(values: np.ndarray, height: int, width: int) -> np.ndarray:
    return torch.nn.functional.interpolate(
        torch.from_numpy(values)[None], (height, width), mode="bilinear", align_corners=False
    )[0].numpy()


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
def test_values_are_resized_as_torch_does(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(0, 9, (2, rows, columns)).astype(np.float32)
    resized = resize(values, Size(width, height))
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, interpolate(values, height, width), atol=2e-4)


@pytest.mark.parametrize("size", [Size(640, 427), Size(427, 640), Size(1300, 1200), Size(1, 700)])
def test_sam_s_padding_is_removed(size: Size) -> None:
    logits = np.random.default_rng(0).normal(0, 9, (3, 256, 256)).astype(np.float32)
    inner = fit(size, Frame(1024))
    framed = interpolate(logits, 1024, 1024)[:, : inner.height, : inner.width]
    expected = interpolate(framed, size.height, size.width)
    np.testing.assert_allclose(upscale(logits, size, Frame(1024)), expected, atol=1e-3)


def test_sam_2_s_logits_are_stretched() -> None:
    logits = np.random.default_rng(0).normal(0, 9, (2, 3, 256, 256)).astype(np.float32)
    expected = np.stack([interpolate(each, 123, 456) for each in logits])
    scaled = upscale(logits, Size(456, 123), Frame(256, stretch=True))
    np.testing.assert_allclose(scaled, expected, atol=1e-3)


def small(mask: np.ndarray, most: int) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (stats[labels, cv2.CC_STAT_AREA] <= most)


@given(st.integers(0, 99), st.integers(0, 30), st.integers(0, 30), st.sampled_from([0, 0.7, -2]))
def test_small_holes_and_islands_are_filled_and_removed(
    seed: int, hole: int, island: int, threshold: float
) -> None:
    grain = np.random.default_rng(seed).normal(0, 4, (12, 12)).astype(np.float32)
    logits = resize(grain, Size(40, 40))
    mask = logits > threshold

    expected = logits.copy()
    if hole:
        expected[small(~mask, hole)] = threshold + 10
    if island:
        expected[small(mask, island)] = threshold - 10
    np.testing.assert_array_equal(
        fill_small_regions(logits, threshold, hole, island), expected.astype(np.float32)
    )
