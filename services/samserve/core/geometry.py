"""Source pixels to the model's frame and back. Pure.

SAM scales the oriented image so that its longest side is the frame's (1024 pixels) and pads at the right and bottom;
SAM 2 stretches it to the whole frame.
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
    """The square that a model sees: its side in pixels, and whether an image is stretched to fill it."""

    side: int
    stretch: bool = False


def fit(size: Size, frame: Frame) -> Size:
    """The size of the scaled image inside the frame, rounded as SAM's ResizeLongestSide does, never under a pixel."""
    if frame.stretch:
        return Size(frame.side, frame.side)
    scale = frame.side / max(size.width, size.height)
    return Size(max(1, int(size.width * scale + 0.5)), max(1, int(size.height * scale + 0.5)))


def to_frame(points: Floats, size: Size, frame: Frame) -> Floats:
    """[..., 2] (x, y) source pixels -> the same in frame pixels. Source: SAM, ResizeLongestSide.apply_coords; SAM 2,
    SAM2Transforms.transform_coords.
    """
    inner = fit(size, frame)
    scale = np.array([inner.width / size.width, inner.height / size.height])
    scaled: Floats = (points * scale).astype(np.float32)
    return scaled
