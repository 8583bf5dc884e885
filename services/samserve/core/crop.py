"""A part of an image that is embedded as an image. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from samserve.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle in whole pixels of the oriented image, right and bottom exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return Size(self.x1 - self.x0, self.y1 - self.y0)

    def is_inside(self, size: Size) -> bool:
        """Return whether this is a part, not empty, of an image of this size."""
        return 0 <= self.x0 < self.x1 <= size.width and 0 <= self.y0 < self.y1 <= size.height


def whole(size: Size) -> Crop:
    """Return the crop that is the whole image."""
    return Crop(0, 0, size.width, size.height)


def crop_id(image_id: str, crop: Crop) -> str:
    """Return the id that a part of an image is cached under: a SHA-256, as all ids are.

    Args:
        image_id: Of the whole image.
        crop: The part.
    """
    name = f"{image_id}:{crop.x0},{crop.y0},{crop.x1},{crop.y1}"
    return hashlib.sha256(name.encode()).hexdigest()
