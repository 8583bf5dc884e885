"""Draws a mask and its prompt onto the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from samserve.client import Box, Click

TINT = (30, 144, 255)
FOREGROUND, BACKGROUND = (50, 205, 50), (220, 20, 60)
SHOWN = 1600  # longest side of the drawing, pixels


def overlay(
    image: Path | IO[bytes],
    mask: NDArray[np.bool_],
    points: Sequence[Click],
    box: Box | None,
    out: Path,
) -> None:
    """Write a PNG of the oriented image with the mask [H, W] tinted and the prompt marked."""
    # Scale to a size that shows the outline well.
    drawing = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
    shade = Image.fromarray(mask)
    scale = min(4.0, SHOWN / max(drawing.size))
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    drawing, shade = drawing.resize(size), shade.convert("L").resize(size)

    # Tint the mask and draw its outline.
    tinted = Image.blend(drawing, Image.new("RGB", size, TINT), 0.45)
    drawing = Image.composite(tinted, drawing, shade)
    outline = (
        shade.point(lambda v: 255 * (v > 127))
        .filter(ImageFilter.FIND_EDGES)
        .filter(ImageFilter.MaxFilter(3))
    )
    drawing.paste((255, 255, 255), mask=outline)

    # Mark the prompt.
    pen = ImageDraw.Draw(drawing)
    for click in points:
        x, y, r = (click.x + 0.5) * scale, (click.y + 0.5) * scale, max(5.0, max(size) / 120)
        pen.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=FOREGROUND if click.on else BACKGROUND,
            outline="white",
            width=max(2, int(r / 4)),
        )
    if box is not None:
        pen.rectangle(
            tuple(v * scale for v in (box.x0, box.y0, box.x1, box.y1)), outline=FOREGROUND, width=3
        )

    out.parent.mkdir(parents=True, exist_ok=True)
    drawing.save(out)
