import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samserve.core.geometry import Size, fit
from samserve.decoder import masks

NEAR = 1e-3  # logits nearer to the threshold than this may fall on either side of it


def smooth_logits(seed: int) -> np.ndarray:
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, 12, 12)).astype(np.float32))
    return torch.nn.functional.interpolate(noise, (256, 256), mode="bicubic")[0, 0].numpy() * 8


def reference(logits: np.ndarray, size: Size) -> np.ndarray:
    """SAM's postprocess_masks in PyTorch: full-size logits."""
    inner = fit(size, 1024)
    framed = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], (1024, 1024), mode="bilinear")
    cut = framed[..., : inner.height, : inner.width]
    return torch.nn.functional.interpolate(cut, (size.height, size.width), mode="bilinear")[0, 0].numpy()


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_mask_is_upscaled_as_sam_does(width: int, height: int, seed: int) -> None:
    logits, size = smooth_logits(seed), Size(width, height)
    wanted = reference(logits, size)
    got = masks.full_mask(logits, size, 1024)
    assert got.shape == (height, width)
    assert not ((got != (wanted > 0)) & (np.abs(wanted) > NEAR)).any()


def test_box_and_area_are_tight() -> None:
    mask = np.zeros((30, 40), bool)
    mask[3:7, 10:21] = True
    assert masks.area(mask) == 44
    assert masks.tight_box(mask) == masks.Box(10, 3, 21, 7)
    assert masks.tight_box(np.zeros((4, 4), bool)) == masks.Box(0, 0, 0, 0)


def test_stability_is_one_for_a_sharp_mask_and_less_for_a_soft_one() -> None:
    size = Size(1024, 512)
    sharp = np.full((256, 256), -9, np.float32)
    sharp[:64, :64] = 9
    assert masks.stability_score(sharp, size, 1024) == 1
    soft = sharp.copy()
    soft[:64, 64:128] = 0
    assert masks.stability_score(soft, size, 1024) == 0.5
    below = sharp.copy()
    below[200:] = 0  # in the padding, which is not the image
    assert masks.stability_score(below, size, 1024) == 1
    assert masks.stability_score(np.full((256, 256), -9, np.float32), size, 1024) == 0


@pytest.mark.parametrize("shape", [(1, 1), (33, 57)])
def test_a_png_holds_the_mask_in_one_bit_a_pixel(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) > 0.5
    picture = Image.open(io.BytesIO(masks.png(mask)))
    assert picture.mode == "1"
    assert np.array_equal(np.asarray(picture), mask)
