"""Scales points and sizes from the source image to the model's frame. Pure.

SAM scales the oriented image until its longest side fits the frame (1024 pixels), then pads it at
the right and bottom. SAM 2 stretches it to the whole frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samserve.core.arrays import Floats

LONGEST, STRETCH = "longest", "stretch"  # ways to resize: keep the shape and pad, or fill the frame


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Frame:
    """The square input of a model.

    Attributes:
        side: Its side in pixels.
        stretch: Whether an image is stretched to fill it.
    """

    side: int
    stretch: bool = False


def fit(size: Size, frame: Frame) -> Size:
    """Return the size of the scaled image inside the frame, at least one pixel.

    Rounds as SAM's ResizeLongestSide does.
    """
    if frame.stretch:
        return Size(frame.side, frame.side)
    scale = frame.side / max(size.width, size.height)
    width = max(1, int(size.width * scale + 0.5))
    height = max(1, int(size.height * scale + 0.5))
    return Size(width, height)


def to_frame(points: Floats, size: Size, frame: Frame) -> Floats:
    """Scale points from source pixels to frame pixels.

    Source: SAM, ResizeLongestSide.apply_coords; SAM 2, SAM2Transforms.transform_coords.

    Args:
        points: [..., 2] as (x, y) in pixels of the oriented source image.
        size: Size of that image.
        frame: The model's frame.
    """
    inner = fit(size, frame)
    scale = np.array([inner.width / size.width, inner.height / size.height])
    scaled: Floats = (points * scale).astype(np.float32)
    return scaled
