"""Benchmark of image decoding against Pillow at full size: `make bench`.

Also compares the pixels and the resulting masks. The images are mosaics of scikit-image's
photographs at their original sharpness: the hardest case for decoding at a reduced scale. Writes
build/bench/image.json.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from samserve.bundles.bundle import Bundle, load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.geometry import Frame, Size, fit
from samserve.core.image import FramedImage, frame_image
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.infra.settings import EmbeddingSettings

from loadtest.bench.decoder import clicks, embed_framed
from loadtest.bench.report import Row, medians, report

FRAME, ROUNDS, CLICKS = Frame(1024), 9, 24
MEGAPIXELS = (1, 3, 12, 24)
TILES = ("astronaut", "chelsea", "coffee", "rocket")


def mosaic(megapixels: float) -> bytes:
    width = round((megapixels * 4e6 / 3) ** 0.5)
    height = round((megapixels * 3e6 / 4) ** 0.5)
    image = Image.new("RGB", (width, height))
    tiles = [Image.fromarray(getattr(skimage.data, name)()) for name in TILES]
    for index, (x, y) in enumerate(np.ndindex(width // 400 + 1, height // 300 + 1)):
        image.paste(tiles[index % len(tiles)], (400 * x, 300 * y))

    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def full_size(data: bytes) -> FramedImage:
    """Decode the JPEG at full size, then resize it. Source: SAM, ResizeLongestSide."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    size = Size(*image.size)
    inner = fit(size, FRAME)
    pixels = np.zeros((FRAME.side, FRAME.side, 3), np.uint8)
    scaled = image.resize((inner.width, inner.height), Image.Resampling.BILINEAR)
    pixels[: inner.height, : inner.width] = np.asarray(scaled)
    return FramedImage(pixels, inner, size)


def middle_masks(bundle: Bundle, image: FramedImage) -> list[NDArray[np.bool_]]:
    """For each click, the low-resolution mask of the second candidate."""
    decoder = MaskDecoder(bundle, Threads(1))
    embedding = embed_framed(bundle, image)
    candidates = decoder.decode(decoder.prepare(embedding), clicks(CLICKS, image.size))
    return [candidate.logits[1] > 0 for candidate in candidates]


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def compare(
    bundle: Bundle,
    title: str,
    reduced: FramedImage,
    full: FramedImage,
    rng: np.random.Generator,
) -> list[Row]:
    """Compare pixels and masks of an image decoded at a reduced scale with those at full size.

    The masks' baseline is full size with noise of one level.
    """
    height, width = full.valid.height, full.valid.width
    difference = np.abs(reduced.pixels.astype(int) - full.pixels)[:height, :width]
    noise = rng.integers(-1, 2, full.pixels.shape)
    noisy = replace(full, pixels=np.clip(full.pixels + noise, 0, 255).astype(np.uint8))
    masks = middle_masks(bundle, full)
    iou = np.mean(list(map(overlap, masks, middle_masks(bundle, reduced))))
    noise_iou = np.mean(list(map(overlap, masks, middle_masks(bundle, noisy))))

    mean, largest = float(difference.mean()), float(difference.max())
    return [
        Row(f"{title}: mean difference", mean, "levels", "one level", 1, "<= 1"),
        Row(f"{title}: largest difference", largest, "levels", "24 levels", 24, "<= 1"),
        Row(
            f"{title}: IoU of masks",
            float(iou),
            "",
            "noise of one level",
            float(noise_iou),
            ">= 0.995",
        ),
    ]


def main() -> None:
    bundle = load_bundle(SHIPPED / "nano")
    limits = EmbeddingSettings().image_limits
    rng = np.random.default_rng(0)
    rows = []

    for megapixels in MEGAPIXELS:
        data = mosaic(megapixels)
        works = {
            "samserve": partial(frame_image, data, FRAME, limits),
            "full size": partial(full_size, data),
        }
        times = medians(works, ROUNDS)

        reduced, full = frame_image(data, FRAME, limits), full_size(data)
        equal = np.array_equal(reduced.pixels, full.pixels)
        rows.append(
            Row(
                f"{megapixels} MP JPEG to frame",
                times["samserve"],
                "ms",
                "Pillow, full size",
                times["full size"],
                "" if equal else "<= 0.6",
            )
        )
        if not equal:
            rows += compare(bundle, f"{megapixels} MP", reduced, full, rng)

    report("image", rows)


if __name__ == "__main__":
    main()
