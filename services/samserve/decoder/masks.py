"""From low-res logits to masks at the image's size, and to the forms in which masks are sent. Pure."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samserve.core.geometry import Size, fit

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Box:
    """The tight box of a mask in pixels, right and bottom exclusive; all zero for an empty mask."""

    x0: int
    y0: int
    x1: int
    y1: int


def full_mask(logits: Floats, size: Size, frame: int) -> Mask:
    """[L, L] low-res logits -> [height, width] mask at the source's size.

    SAM's order: bilinear to the frame, cut the padding off, bilinear to the source's size, threshold at 0.
    Source: SAM, Sam.postprocess_masks; OpenCV's INTER_LINEAR is torch's bilinear with align_corners=False.
    """
    inner = fit(size, frame)
    framed = cv2.resize(logits, (frame, frame), interpolation=cv2.INTER_LINEAR)[: inner.height, : inner.width]
    whole: Floats = cv2.resize(framed, (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    mask: Mask = whole.reshape(size.height, size.width) > 0
    return mask


def stability_score(logits: Floats, size: Size, frame: int, offset: float = 1.0) -> float:
    """IoU of the masks cut at logit +offset and -offset, of the low-res logits that lie on the image; 0 if both empty.

    Source: SAM, calculate_stability_score.
    """
    inner, cell = fit(size, frame), frame / logits.shape[0]
    shown = logits[: int(np.ceil(inner.height / cell)), : int(np.ceil(inner.width / cell))]
    sure, possible = np.count_nonzero(shown > offset), np.count_nonzero(shown > -offset)
    return sure / possible if possible else 0.0


def area(mask: Mask) -> int:
    """Pixels of the mask."""
    return int(np.count_nonzero(mask))


def tight_box(mask: Mask) -> Box:
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    return Box(x, y, x + w, y + h)


def png(mask: Mask) -> bytes:
    """A one-bit PNG of the mask."""
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG", compress_level=1)
    return out.getvalue()
