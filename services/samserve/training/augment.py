"""Augmentation of training windows: colour, blur, noise, JPEG, turns, and objects pasted in."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from samserve.training.photos import Bytes, Mask

Rng = np.random.Generator


def recolour(rng: Rng, image: Bytes) -> Bytes:
    """Change exposure, contrast and the colours' balance; sometimes take all colour away."""
    if rng.random() < 0.08:
        image = np.ascontiguousarray(image[..., rng.permutation(3)])
    if rng.random() < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.1, 3))
    mean, contrast = np.array(cv2.mean(image)[:3]), np.exp(rng.normal(0, 0.15))
    levels = np.arange(256)[:, None]
    table = (mean + (levels - mean) * contrast) * gain + rng.normal(0, 8, 3)  # [256, 3]
    return np.asarray(cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None]), np.uint8)


def degrade(rng: Rng, image: Bytes) -> Bytes:
    """Blur, noise and JPEG, each now and then."""
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.0))
    if rng.random() < 0.15:
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 14))
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))]
        encoded = cv2.imencode(".jpg", image, quality)[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image


def turn(rng: Rng, image: Bytes, masks: list[Mask]) -> tuple[Bytes, list[Mask]]:
    """Mirror, and turn by quarters; everyday photos stay upright half of the time."""
    if rng.random() < 0.5:
        image, masks = image[:, ::-1], [mask[:, ::-1] for mask in masks]
    quarters = int(rng.integers(4)) if rng.random() < 0.5 else 0
    image, masks = np.rot90(image, quarters), [np.rot90(mask, quarters) for mask in masks]
    return np.ascontiguousarray(image), masks


def paste(
    rng: Rng, image: Bytes, masks: list[Mask], cutting: Bytes, shape: Mask
) -> tuple[Bytes, list[Mask]]:
    """Lay an object onto a window.

    Args:
        image: [H, W, 3].
        masks: [H, W] each.
        cutting: [h, w, 3], the object's box; at most the window's size.
        shape: [h, w], the object in it.

    Returns:
        The new image, and the masks less what the object hides, its own mask last.
    """
    height, width = shape.shape
    x = int(rng.integers(image.shape[1] - width + 1))
    y = int(rng.integers(image.shape[0] - height + 1))
    alpha = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), rng.uniform(0.4, 1.2))[..., None]
    image = image.copy()
    under = image[y : y + height, x : x + width]
    under[:] = (under * (1 - alpha) + cutting * alpha).astype(np.uint8)
    placed: NDArray[np.bool_] = np.zeros(image.shape[:2], bool)
    placed[y : y + height, x : x + width] = shape
    return image, [*(mask & ~placed for mask in masks), placed]
