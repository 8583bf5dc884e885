"""Draws many masks onto an image, in different colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from samserve.core import runs
from samserve.core.arrays import Bytes, Ints

SHOWN = 1600  # longest side of the drawing, pixels
TINT = 0.5
GOLDEN = 0.618033988749895  # of the circle of colours between one mask and the next


def overlay_all(image: Path | IO[bytes], masks: Sequence[runs.Runs], out: Path) -> None:
    """Write a PNG of the oriented image with the masks tinted, small ones on top."""
    drawing = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
    scale = min(1.0, SHOWN / max(drawing.size))
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    pixels = np.asarray(drawing.resize(size)).astype(np.float32)

    labels = paint(masks, size)
    colours = np.array([(255, 255, 255), *palette(len(masks))], np.float32)
    tinted = (1 - TINT) * pixels + TINT * colours[labels]
    pixels = np.where(labels[..., None] > 0, tinted, pixels)
    pixels[edges(labels)] = 255

    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(out)


def paint(masks: Sequence[runs.Runs], size: tuple[int, int]) -> Ints:
    """Return the number of the smallest mask on each pixel of a drawing, from 1; 0 for none.

    Args:
        masks: Of one image.
        size: Width and height of the drawing.
    """
    width, height = size
    labels = np.zeros((height, width), np.int64)
    for number in sorted(range(len(masks)), key=lambda number: -runs.area(masks[number])):
        mask, box = masks[number], runs.box(masks[number])
        # The drawing's pixels whose centres lie in the mask's box.
        x_scale, y_scale = mask.width / width, mask.height / height
        columns = np.arange(int(box.x0 / x_scale), min(width, int(box.x1 / x_scale) + 1))
        rows = np.arange(int(box.y0 / y_scale), min(height, int(box.y1 / y_scale) + 1))
        x, y = np.meshgrid((columns + 0.5) * x_scale, (rows + 0.5) * y_scale)
        inside = runs.contains(mask, np.stack([x.ravel(), y.ravel()], 1)).reshape(x.shape)
        part = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part[inside] = number + 1

    return labels


def palette(count: int) -> list[tuple[int, int, int]]:
    """Return colours of which neighbouring ones differ most: RGB, 0 to 255."""
    colours = []
    for number in range(count):
        level = number % 3
        red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 1 - level / 4, 1 - level / 8)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def edges(labels: Ints) -> Bytes:
    """Return the pixels of a mask whose left or upper neighbour belongs to another one, bool."""
    left = np.diff(labels, axis=1, prepend=labels[:, :1]) != 0
    above = np.diff(labels, axis=0, prepend=labels[:1]) != 0
    on_edge: Bytes = (left | above) & (labels > 0)
    return on_edge
