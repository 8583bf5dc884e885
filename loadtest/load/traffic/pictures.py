"""The pictures of a load test."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image
from samserve.core.image_id import image_id

WIDTH, HEIGHT = 800, 600


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image of WIDTH x HEIGHT pixels and its id."""

    data: bytes
    id: str

    def anew(self) -> Picture:
        """The same picture as a file that nobody has seen: bytes after a JPEG's end mean nothing to it. Not repeated by
        any seed, else a second run would find it cached.
        """
        data = self.data + os.urandom(16)
        return Picture(data, image_id(data))


def known_pictures(count: int, seed: int) -> list[Picture]:
    return [_picture(np.random.default_rng([seed, number])) for number in range(count)]


def _picture(rng: np.random.Generator) -> Picture:
    """Smooth blobs of colour, so that masks have outlines of a photo's length."""
    blobs = Image.fromarray(rng.integers(0, 256, (HEIGHT // 100, WIDTH // 100, 3), np.uint8))
    out = io.BytesIO()
    blobs.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return Picture(out.getvalue(), image_id(out.getvalue()))
