"""Between the pixels of an image and of the model's frame: Meta's transforms, without torch.

numpy arrays and torch tensors are taken; torch is not imported before a tensor comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from samserve.core.arrays import Array, Bytes
from samserve.core.geometry import Frame, Size, fit


class ResizeLongestSide:
    """SAM's transform: an image keeps its shape; its longest side fills the frame."""

    def __init__(self, target_length: int) -> None:
        """Create the transform for a frame of `target_length` pixels a side."""
        self.target_length = target_length

    def apply_image(self, image: Bytes) -> Bytes:
        """Resize [H, W, 3] uint8 to the frame. Needs Pillow."""
        from PIL import Image

        rows, columns = image.shape[:2]
        height, width = self.get_preprocess_shape(rows, columns, self.target_length)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        return np.array(resized)

    def apply_image_torch(self, image: Any) -> Any:
        """Resize a float tensor [B, C, H, W] to the frame."""
        from torch.nn import functional

        rows, columns = image.shape[-2:]
        shape = self.get_preprocess_shape(rows, columns, self.target_length)
        return functional.interpolate(
            image, shape, mode="bilinear", align_corners=False, antialias=True
        )

    def apply_coords(self, coords: Array, original_size: tuple[int, ...]) -> Array:
        """Scale [..., 2] (x, y) from pixels of an image (H, W) to pixels of the frame."""
        return np.asarray(coords, float) * self._scale(original_size)

    def apply_boxes(self, boxes: Array, original_size: tuple[int, ...]) -> Array:
        """Scale boxes [B, 4] likewise."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Any, original_size: tuple[int, ...]) -> Any:
        """Scale a tensor [..., 2] likewise."""
        scale = self._scale(original_size)
        return coords.float() * coords.new_tensor(scale.tolist(), dtype=coords.float().dtype)

    def apply_boxes_torch(self, boxes: Any, original_size: tuple[int, ...]) -> Any:
        """Scale a tensor of boxes [B, 4] likewise."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Return height and width inside the frame."""
        inner = fit(Size(oldw, oldh), Frame(long_side_length))
        return inner.height, inner.width

    def _scale(self, original_size: tuple[int, ...]) -> Array:
        height, width = original_size
        new_height, new_width = self.get_preprocess_shape(height, width, self.target_length)
        return np.array([new_width / width, new_height / height])


class Sam2Transforms:
    """SAM 2's transform of coordinates: the image is stretched to the frame."""

    def __init__(
        self,
        resolution: int,
        mask_threshold: float,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        """Keep the predictor's options; `resolution` is the frame's side."""
        self.resolution = resolution
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area

    def transform_coords(
        self, coords: Any, normalize: bool = False, orig_hw: tuple[int, int] | None = None
    ) -> Any:
        """Scale [..., 2] (x, y) to pixels of the frame.

        Args:
            coords: From 0 to 1, or pixels of the image if `normalize`.
            normalize: Whether they are pixels.
            orig_hw: Height and width of the image, for pixels.
        """
        if not normalize:
            return coords * self.resolution
        assert orig_hw is not None, "orig_hw must be supplied if normalize is true."
        height, width = orig_hw
        shares = np.array([self.resolution / width, self.resolution / height])
        return coords * (coords.new_tensor(shares) if hasattr(coords, "new_tensor") else shares)

    def transform_boxes(
        self, boxes: Any, normalize: bool = False, orig_hw: tuple[int, int] | None = None
    ) -> Any:
        """Scale boxes [B, 4] likewise, to [B, 2, 2]."""
        return self.transform_coords(boxes.reshape(-1, 2, 2), normalize, orig_hw)
