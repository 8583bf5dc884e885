import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from samserve.core.geometry import Frame, Size, fit
from samserve.core.rle import encode_rle
from samserve.core.runs import area, dense, runs_of
from samserve.decoder.masks import outline as masks
from samserve.decoder.masks.write import Output, write_mask

NEAR = 1e-3  # logits nearer to the threshold than this may fall on either side of it

FRAME = Frame(1024)


def logits_of(seed: int, grain: int) -> np.ndarray:
    """Noise of `grain` bumps a side; as many as there are logits: no two alike."""
    noise = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(1, 1, grain, grain)).astype(np.float32)
    )
    return torch.nn.functional.interpolate(noise, (256, 256), mode="bicubic")[0, 0].numpy() * 8


def disc(x: float, y: float, radius: float) -> np.ndarray:
    down, across = np.mgrid[:256, :256]
    return (radius - np.hypot(across - x, down - y)).astype(np.float32)


def reference(logits: np.ndarray, size: Size) -> np.ndarray:
    """SAM's postprocess_masks in PyTorch, in double precision: full-size logits."""
    inner = fit(size, FRAME)
    exact = torch.from_numpy(logits.astype(np.float64))[None, None]
    cut = torch.nn.functional.interpolate(exact, (1024, 1024), mode="bilinear")[
        ..., : inner.height, : inner.width
    ]
    return torch.nn.functional.interpolate(cut, (size.height, size.width), mode="bilinear")[
        0, 0
    ].numpy()


def check(logits: np.ndarray, size: Size) -> None:
    wanted = reference(logits, size)
    runs = masks.outline(logits, size, FRAME)
    got = dense(runs)
    assert got.shape == (size.height, size.width)
    assert not ((got != (wanted > 0)) & (np.abs(wanted) > NEAR)).any()
    assert (np.diff(runs.changes, prepend=-1) > 0).all()
    assert np.array_equal(runs.changes, runs_of(got).changes)
    assert np.array_equal(coco.decode({"size": list(got.shape), "counts": encode_rle(runs)}), got)


@given(
    st.integers(1, 900), st.integers(1, 900), st.integers(0, 99), st.sampled_from([2, 12, 80, 256])
)
@example(1, 1, 0, 12)
@example(1, 900, 0, 12)
@example(900, 1, 0, 12)
@example(2, 3, 0, 256)
@example(1024, 1024, 0, 256)
@example(1024, 1025, 0, 256)
@example(4096, 37, 0, 12)
@example(37, 4096, 0, 256)
@example(4096, 1, 0, 12)
@example(1500, 1100, 0, 80)
@settings(max_examples=30)
def test_a_mask_is_upscaled_as_sam_does(width: int, height: int, seed: int, grain: int) -> None:
    check(logits_of(seed, grain), Size(width, height))


@pytest.mark.parametrize(
    "size",
    [Size(256, 256), Size(640, 427), Size(100, 90), Size(1, 1), Size(37, 900), Size(1500, 1100)],
)
@pytest.mark.parametrize("grain", [2, 12, 80, 256])
def test_sam_2s_masks_go_to_the_sources_size_at_once(size: Size, grain: int) -> None:
    logits = logits_of(grain, grain)
    exact = torch.from_numpy(logits.astype(np.float64))[None, None]
    wanted = torch.nn.functional.interpolate(exact, (size.height, size.width), mode="bilinear")[
        0, 0
    ].numpy()
    got = dense(masks.outline(logits, size, Frame(256, stretch=True)))
    assert not ((got != (wanted > 0)) & (np.abs(wanted) > NEAR)).any()


@pytest.mark.parametrize("size", [Size(1400, 900), Size(900, 1400), Size(300, 200), Size(4096, 37)])
@pytest.mark.parametrize("at", [(0, 0), (128, 100), (255, 255), (255, 0), (0, 160), (300, 90)])
@pytest.mark.parametrize("radius", [0.4, 9, 120])
def test_a_small_mask_anywhere_is_found(size: Size, at: tuple[float, float], radius: float) -> None:
    check(disc(*at, radius), size)


@pytest.mark.parametrize("size", [Size(1, 1), Size(37, 4096), Size(2000, 1500), Size(640, 480)])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1e-45, 3.0])
def test_logits_that_are_all_alike_give_all_or_nothing(size: Size, value: float) -> None:
    runs = masks.outline(np.full((256, 256), value, np.float32), size, FRAME)
    assert area(runs) in ([size.pixels] if value == 3 else [0, size.pixels] if value > 0 else [0])
    assert len(runs.changes) <= 1


def test_logits_that_are_zero_are_background_even_between_others() -> None:
    logits = np.zeros((256, 256), np.float32)
    logits[:, 100:] = np.where(np.arange(256)[:, None] % 2, 5, -5)
    check(logits, Size(1024, 1024))
    check(logits, Size(1600, 1600))


@pytest.mark.parametrize("value", [1e-45, 3e38, np.inf, np.nan])
def test_logits_beyond_reason_still_make_a_mask(value: float) -> None:
    logits = np.where(disc(90, 80, 30) > 0, value, -value).astype(np.float32)
    runs = masks.outline(logits, Size(1400, 900), FRAME)
    assert (np.diff(runs.changes, prepend=-1, append=runs.height * runs.width) > 0).all()


def test_many_masks_of_twelve_megapixels_take_little_memory() -> None:
    size, output = Size(4000, 3000), Output(rle=True, png=True, polygons=True, polygon_tolerance=1)
    logits = [logits_of(seed, 6) for seed in range(6)]
    write_mask(logits[0], (1, 1), size, FRAME, output)
    tracemalloc.start()
    answers = [write_mask(each, (1, 1), size, FRAME, output) for each in logits]
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(answer.area for answer in answers) > 3e6
    assert kept < len(answers) * 0.2e6
    assert peak < 20e6


def test_only_what_is_wanted_is_written() -> None:
    answer = write_mask(disc(90, 90, 20), (1, 1), Size(640, 480), FRAME, Output())
    assert answer.area
    forms = (answer.rle, answer.png, answer.polygons, answer.bits, answer.low_res_logits)
    assert forms == (None,) * 5
