"""The images that the gate compares encoders on: the user's own, or drawn ones."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from samserve.core.arrays import Doubles
from samserve.core.geometry import Frame
from samserve.core.image import FramedImage, frame_image
from samserve.core.image_file import FORMATS
from samserve.infra.settings import EmbeddingSettings

SIZES = (  # (width, height) of the drawn images, in pixels
    (640, 480),
    (480, 640),
    (400, 300),
    (333, 500),
    (640, 200),
    (160, 480),
    (256, 256),
    (600, 600),
)
SHAPES = 9  # on each drawn image
SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


@dataclass(frozen=True, slots=True)
class GateImage:
    """One image to compare encoders on.

    Attributes:
        name: For reports.
        image: The image in the model's frame.
    """

    name: str
    image: FramedImage


def gate_images(frame: Frame, folder: Path | None = None) -> list[GateImage]:
    """Return the images of a folder sorted by name, or eight drawn ones.

    Raises:
        FileNotFoundError: The folder contains no image.
        InvalidInput: An image is damaged.
    """
    if folder is None:
        return [
            _framed(f"drawn-{number}", encode_png(draw(number)), frame)
            for number in range(len(SIZES))
        ]

    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no images in {folder}")
    return [_framed(file.name, file.read_bytes(), frame) for file in files]


def draw(number: int) -> Image.Image:
    """Draw shapes with shaded, striped and mottled surfaces, and a camera's blur and noise.

    Each number gives another image, the same every time.
    """
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    image = _surface(rng, width, height)
    for _ in range(SHAPES):
        image.paste(_surface(rng, width, height), mask=_shape(rng, width, height))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)))
    noisy = blurred + rng.normal(0, 5, blurred.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encode_png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _framed(name: str, data: bytes, frame: Frame) -> GateImage:
    return GateImage(name, frame_image(data, frame, EmbeddingSettings().image_limits))


def _surface(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Mix two colours by a slope, by stripes or by blotches."""
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(12, 60)
    along = x * np.cos(angle) + y * np.sin(angle)

    slope = (along - along.min()) / np.ptp(along)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
    cells = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2), np.uint8)
    blotches = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    mixes = (slope, stripes, np.asarray(blotches) / 255)

    share: Doubles = mixes[rng.integers(len(mixes))][..., None]
    first, second = rng.uniform(0, 255, (2, 3))
    return Image.fromarray((first + (second - first) * share).astype(np.uint8))


def _shape(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw the mask of an ellipse, a rectangle or a polygon."""
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
