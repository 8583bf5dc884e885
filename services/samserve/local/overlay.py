"""Draws an answer onto its photo: the mask tinted and outlined, the prompt marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from samserve.client import Box, Click

TINT = (30, 144, 255)
ON, BESIDE = (50, 205, 50), (220, 20, 60)
SHOWN = 1600  # longest side of the drawing, pixels


def overlay(
    photo: Path, mask: NDArray[np.bool_], points: Sequence[Click], box: Box | None, out: Path
) -> None:
    """Write a PNG of the oriented photo with the mask [H, W] and the prompt on it."""
    picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    shade = Image.fromarray(mask)
    scale = min(4.0, SHOWN / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture, shade = picture.resize(size), shade.convert("L").resize(size)
    tinted = Image.blend(picture, Image.new("RGB", size, TINT), 0.45)
    picture = Image.composite(tinted, picture, shade)
    outline = (
        shade.point(lambda v: 255 * (v > 127))
        .filter(ImageFilter.FIND_EDGES)
        .filter(ImageFilter.MaxFilter(3))
    )
    picture.paste((255, 255, 255), mask=outline)
    pen = ImageDraw.Draw(picture)
    for click in points:
        x, y, r = (click.x + 0.5) * scale, (click.y + 0.5) * scale, max(5.0, max(size) / 120)
        pen.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=ON if click.on else BESIDE,
            outline="white",
            width=max(2, int(r / 4)),
        )
    if box is not None:
        pen.rectangle(
            tuple(v * scale for v in (box.x0, box.y0, box.x1, box.y1)), outline=ON, width=3
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
