"""The images of a load test."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image
from samserve.core.image_id import image_id

WIDTH, HEIGHT = 800, 600


@dataclass(frozen=True, slots=True)
class LoadImage:
    """An encoded image of WIDTH x HEIGHT pixels and its id."""

    data: bytes
    id: str

    def unseen_copy(self) -> LoadImage:
        """Return the same image as a new file, with a new id.

        Decoders ignore bytes after the end of a JPEG. The bytes are truly random: with a seed, a
        second run would find the copy in the cache.
        """
        data = self.data + os.urandom(16)
        return LoadImage(data, image_id(data))


def known_images(count: int, seed: int) -> list[LoadImage]:
    return [_image(np.random.default_rng([seed, number])) for number in range(count)]


def _image(rng: np.random.Generator) -> LoadImage:
    """Draw smooth blobs of color; mask outlines are then as long as in a photograph."""
    blobs = Image.fromarray(rng.integers(0, 256, (HEIGHT // 100, WIDTH // 100, 3), np.uint8))

    file = io.BytesIO()
    blobs.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return LoadImage(file.getvalue(), image_id(file.getvalue()))
