import numpy as np
import pytest
from samserve.training import augment
from samserve.training.network import FRAME
from samserve.training.windows import (
    FILLED,
    LEAST_FOCUS,
    Window,
    choose_scale,
    cut_image,
    cut_mask,
    place,
)

BOX = (300, 200, 60, 40)  # x, y, width, height
IMAGE = (640, 480)  # width, height


@pytest.mark.parametrize("side", [256, 384, 512, 1024])
def test_a_window_lies_in_the_image_and_holds_its_focus(side: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scale = choose_scale(rng, IMAGE, (60, 40, 2000), side)
        window = place(rng, IMAGE, BOX, scale, side)
        assert window.x <= BOX[0] and BOX[0] + BOX[2] <= window.x + window.width <= IMAGE[0]
        assert window.y <= BOX[1] and BOX[1] + BOX[3] <= window.y + window.height <= IMAGE[1]
        assert max(window.size) <= side
        assert max(window.size) >= FILLED * side - 1


def test_scales_vary_around_the_scale_in_service() -> None:
    rng = np.random.default_rng(0)
    scales = [choose_scale(rng, IMAGE, (60, 40, 2000), 512) * 640 / FRAME for _ in range(500)]
    assert min(scales) < 0.5 and max(scales) > 1.5


def test_a_window_zooms_into_a_small_focus() -> None:
    rng = np.random.default_rng(0)
    scales = [choose_scale(rng, IMAGE, (4, 4, 16), 256) for _ in range(100)]
    assert min(scales) >= LEAST_FOCUS / 4


def test_a_focus_larger_than_the_window_is_made_smaller() -> None:
    scale = choose_scale(np.random.default_rng(0), IMAGE, (600, 400, 200_000), 256)
    assert scale * 600 <= 256


def test_image_and_mask_are_cut_alike() -> None:
    image, mask = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), bool)
    image[10:20, 30:50], mask[10:20, 30:50] = 255, True
    window = Window(x=20, y=5, width=40, height=30, scale=2.0)
    cut, shape = cut_image(image, window), cut_mask(mask, window)
    assert cut.shape[:2] == shape.shape == (60, 80)
    assert ((cut[..., 0] > 127) == shape).mean() > 0.99
    assert shape.sum() == pytest.approx(4 * 200, rel=0.05)


def test_turning_keeps_masks_on_their_objects() -> None:
    image, mask = np.zeros((6, 9, 3), np.uint8), np.zeros((6, 9), bool)
    image[1:3, 2:7], mask[1:3, 2:7] = 200, True
    for seed in range(20):
        turned, (shape,) = augment.turn(np.random.default_rng(seed), image, [mask])
        assert ((turned[..., 0] == 200) == shape).all()


def test_a_pasted_object_hides_what_is_under_it() -> None:
    image, under = np.zeros((20, 20, 3), np.uint8), np.ones((20, 20), bool)
    cutting, shape = np.full((8, 8, 3), 255, np.uint8), np.ones((8, 8), bool)
    rng = np.random.default_rng(0)
    pasted, (rest, own) = augment.paste(rng, image, [under], cutting, shape)
    assert own.sum() == 64
    assert not (rest & own).any() and rest.sum() == 400 - 64
    assert (pasted[own].mean() > 200) and not image.any()


def test_colour_and_damage_keep_the_shape() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed = augment.degrade(rng, augment.recolour(rng, image))
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
