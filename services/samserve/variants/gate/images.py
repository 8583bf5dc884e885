"""The pictures that the gate looks at: the user's own, or drawn ones."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from samserve.core.geometry import Frame
from samserve.core.image import FORMATS, FramedImage, frame_image
from samserve.infra.settings import EmbeddingSettings

SIZES = (
    (640, 480),
    (480, 640),
    (400, 300),
    (333, 500),
    (640, 200),
    (160, 480),
    (256, 256),
    (600, 600),
)
SHAPES = 9  # on each drawn picture
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in the model's frame, and what to call it."""

    name: str
    image: FramedImage


def pictures(frame: Frame, folder: Path | None = None) -> list[Picture]:
    """The images of a folder, or those drawn for the purpose. Raises FileNotFoundError if the folder has none,
    InvalidInput for a damaged one.
    """
    if folder is None:
        return [
            _framed(f"drawn-{number}", png(draw(number)), frame) for number in range(len(SIZES))
        ]
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"there is no image in {folder}")
    return [_framed(file.name, file.read_bytes(), frame) for file in files]


def draw(number: int) -> Image.Image:
    """Shapes of shaded, striped and mottled surfaces on such a ground, with a camera's blur and noise; each number has
    its own.
    """
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    picture = _surface(rng, width, height)
    for _ in range(SHAPES):
        picture.paste(_surface(rng, width, height), mask=_shape(rng, width, height))
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)))
    return Image.fromarray(
        np.clip(blurred + rng.normal(0, 5, blurred.shape), 0, 255).astype(np.uint8)
    )


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _framed(name: str, data: bytes, frame: Frame) -> Picture:
    return Picture(name, frame_image(data, frame, EmbeddingSettings().image_limits))


def _surface(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Two colours mixed by a slope, by stripes or by blotches."""
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(12, 60)
    along = x * np.cos(angle) + y * np.sin(angle)
    slope = (along - along.min()) / np.ptp(along)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
    blotches = Image.fromarray(rng.integers(0, 256, (height // 16 + 2, width // 16 + 2), np.uint8))
    mixes = (
        slope,
        stripes,
        np.asarray(blotches.resize((width, height), Image.Resampling.BICUBIC)) / 255,
    )
    share: NDArray[np.float64] = mixes[rng.integers(len(mixes))][..., None]
    one, other = rng.uniform(0, 255, (2, 3))
    return Image.fromarray((one + (other - one) * share).astype(np.uint8))


def _shape(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """The mask of an ellipse, a rectangle or a polygon."""
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    x, y = rng.uniform(0, (width, height))
    a, b = rng.uniform(0.05, 0.25, 2) * min(width, height)
    kind = rng.integers(3)
    if kind == 0:
        pen.ellipse((x - a, y - b, x + a, y + b), fill=255)
    elif kind == 1:
        pen.rectangle((x - a, y - b, x + a, y + b), fill=255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        pen.polygon([(x + a * np.cos(angle), y + b * np.sin(angle)) for angle in angles], fill=255)
    return mask
