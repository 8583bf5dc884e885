"""Scales low-res logits to an image's size, as Meta's packages do. Pure."""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Array, Bools, Floats
from samserve.core.components import components
from samserve.core.geometry import Frame, Size, fit
from samserve.core.run_sets import from_spans, inverse
from samserve.core.runs import ColumnSpans, Runs, dense, runs_of, spans

BEYOND = 10.0  # logits between the threshold and what a small region is set to


def upscale(logits: Floats, size: Size, frame: Frame) -> Floats:
    """Scale low-res logits to an image's size.

    SAM scales them to its frame, removes the padding, and scales the rest. SAM 2's frame has the
    size of the logits and no padding. Sources: SAM, Sam.postprocess_masks; SAM 2,
    SAM2Transforms.postprocess_masks.

    Args:
        logits: [..., L, L].
        size: Of the image.
        frame: The model's mask frame.

    Returns:
        [..., height, width].
    """
    inner = fit(size, frame)
    in_frame = resize(logits, Size(frame.side, frame.side))
    return resize(in_frame[..., : inner.height, : inner.width], size)


def resize(values: Floats, size: Size) -> Floats:
    """Resize [..., H, W] bilinearly, as torch's interpolate with align_corners=False does."""
    rows = _along(values, size.height, axis=-2)
    return _along(rows, size.width, axis=-1)


def _along(values: Floats, count: int, axis: int) -> Floats:
    length = values.shape[axis]
    if length == count:
        return values

    # In fp32, as torch does.
    scale = np.float32(length) / np.float32(count)
    centres = np.arange(count, dtype=np.float32) + np.float32(0.5)
    places = np.maximum(centres * scale - np.float32(0.5), 0)
    first = np.minimum(places.astype(np.int64), length - 1)
    second = np.minimum(first + 1, length - 1)
    share = places - first.astype(np.float32)
    if axis == -2:
        share = share[:, None]

    out: Floats = values.take(first, axis)
    out += share * (values.take(second, axis) - out)
    return out


def fill_small_regions(logits: Floats, threshold: float, hole: float, island: float) -> Floats:
    """Return low-res logits without small holes and islands.

    Source: SAM 2, SAM2Transforms.postprocess_masks.

    Args:
        logits: [L, L].
        threshold: Logits above it are the mask.
        hole: Holes of up to so many cells are filled; 0 leaves all.
        island: Islands of up to so many cells are removed; 0 leaves all.
    """
    mask = runs_of(logits > threshold)
    filled = logits
    if hole > 0:
        filled = np.where(_small_parts(inverse(mask), hole), threshold + BEYOND, filled)
    if island > 0:
        filled = np.where(_small_parts(mask, island), threshold - BEYOND, filled)
    return filled.astype(np.float32)


def _small_parts(mask: Runs, most: float) -> Bools:
    """Return the connected parts of up to `most` pixels."""
    cut = spans(mask)
    labels, sizes = components(cut)
    small: Array = sizes[labels] <= most
    parts = ColumnSpans(cut.columns[small], cut.tops[small], cut.bottoms[small])
    return dense(from_spans(parts, Size(mask.width, mask.height)))
