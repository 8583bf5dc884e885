"""Brush regions against a decoder written from the format's description, and Label Studio's."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samserve.core.runs import runs_of
from samserve.gateway.label_studio.brush import encode_brush

shapes = st.tuples(st.integers(1, 40), st.integers(1, 60))


def decode(rle: list[int]) -> np.ndarray:
    """Read the packets bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        count = read(sizes[read(2)]) + 1
        if is_run:
            values += [read(value_bits)] * count
        else:
            values += [read(value_bits) for _ in range(count)]

    assert len(values) == total
    assert len(bits) - at < 8
    assert "1" not in bits[at:]
    return np.array(values, np.uint8)


def pixels(rle: list[int], shape: tuple[int, int]) -> np.ndarray:
    values = decode(rle).reshape(*shape, 4)
    assert (values == values[..., :1]).all()
    assert set(np.unique(values)) <= {0, 255}
    return values[..., 3] == 255


@given(shapes.flatmap(lambda shape: arrays(np.bool_, shape)))
def test_any_mask_is_decoded_again(mask: np.ndarray) -> None:
    assert np.array_equal(pixels(encode_brush(runs_of(mask)), mask.shape), mask)


@pytest.mark.parametrize("width", [1, 2, 4, 16_384, 16_385, 32_768, 40_000])
@pytest.mark.parametrize("value", [False, True])
def test_runs_at_the_limits_of_their_sizes(width: int, value: bool) -> None:
    mask = np.full((1, width), value)
    assert np.array_equal(pixels(encode_brush(runs_of(mask)), mask.shape), mask)


def test_label_studios_own_decoder_reads_the_same() -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="no label_studio_sdk")
    mask = np.random.default_rng(0).random((31, 47)) > 0.5
    values = brush.decode_rle(encode_brush(runs_of(mask)))
    assert np.array_equal(values.reshape(31, 47, 4)[..., 3] == 255, mask)


def test_the_memory_grows_with_the_runs_and_not_with_the_pixels() -> None:
    side = 3000
    y, x = np.ogrid[:side, :side]
    circle = runs_of((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2)
    tracemalloc.start()
    encode_brush(circle)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side * side / 2  # an RGBA bitmap has four bytes a pixel
