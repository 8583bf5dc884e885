"""Training windows: where to cut a square of the model frame out of an image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from samserve.training.network import FRAME
from samserve.training.photos import Bytes, Mask

Rng = np.random.Generator

JITTER = (0.3, 2.0)  # scale, as a multiple of the scale in service
FILLED = 0.75  # share of the window that the image's longest side covers at least
LEAST_FOCUS = 24.0  # window pixels of the focus mask's side at least (square root of its area)


@dataclass(frozen=True, slots=True)
class Window:
    """A crop of `width` x `height` image pixels from (x, y), enlarged by `scale`."""

    x: int
    y: int
    width: int
    height: int
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in window pixels."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))


def choose_scale(
    rng: Rng, image: tuple[int, int], focus: tuple[float, float, float], side: int
) -> float:
    """Window pixels per image pixel.

    Args:
        image: the image's width and height.
        focus: width, height and area of the mask that the window is for, in image pixels.
        side: of the window.
    """
    width, height, area = focus
    jitter = np.exp(rng.uniform(*np.log(JITTER)))
    scale = FRAME / max(image) * jitter
    scale = max(scale, LEAST_FOCUS / np.sqrt(area))
    scale = min(scale, 0.95 * side / max(width, height))
    return float(max(scale, FILLED * side / max(image)))


def place(
    rng: Rng, image: tuple[int, int], box: tuple[int, int, int, int], scale: float, side: int
) -> Window:
    """A window at random that holds as much of the box as it can."""
    x, width = _place_axis(rng, image[0], (box[0], box[2]), scale, side)
    y, height = _place_axis(rng, image[1], (box[1], box[3]), scale, side)
    return Window(x, y, width, height, scale)


def _place_axis(
    rng: Rng, length: int, focus: tuple[int, int], scale: float, side: int
) -> tuple[int, int]:
    extent = min(length, int(side / scale))
    start, size = focus
    low, high = sorted((start + size - extent, start))
    low, high = max(0, min(low, length - extent)), max(0, min(high, length - extent))
    return int(rng.integers(low, high + 1)), extent


def cut_image(image: Bytes, window: Window) -> Bytes:
    """The crop at the window's scale."""
    how = cv2.INTER_AREA if window.scale < 1 else cv2.INTER_LINEAR
    crop = image[window.y : window.y + window.height, window.x : window.x + window.width]
    return np.asarray(cv2.resize(crop, window.size, interpolation=how), np.uint8)


def cut_mask(mask: Mask, window: Window) -> Mask:
    """The mask's part in the window."""
    crop = mask[window.y : window.y + window.height, window.x : window.x + window.width]
    soft = cv2.resize(crop.astype(np.float32), window.size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft > 0.5)
