"""What decoding a photo costs, against decoding all of it as SAM's users do, and how far the two differ: `make bench`.

The photos are mosaics of scikit-image's at their own sharpness: the hardest case for decoding at a reduced scale.
Writes build/bench/image.json.
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
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def mosaic(megapixels: float) -> bytes:
    width, height = round((megapixels * 4e6 / 3) ** 0.5), round((megapixels * 3e6 / 4) ** 0.5)
    picture = Image.new("RGB", (width, height))
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOS]
    for place, (x, y) in enumerate(np.ndindex(width // 400 + 1, height // 300 + 1)):
        picture.paste(photos[place % len(photos)], (400 * x, 300 * y))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    return out.getvalue()


def whole(data: bytes) -> FramedImage:
    """SAM's own way: all of the JPEG, then ResizeLongestSide."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    size = Size(*picture.size)
    inner = fit(size, FRAME)
    pixels = np.zeros((FRAME.side, FRAME.side, 3), np.uint8)
    scaled = picture.resize((inner.width, inner.height), Image.Resampling.BILINEAR)
    pixels[: inner.height, : inner.width] = np.asarray(scaled)
    return FramedImage(pixels, inner, size)


def best_masks(bundle: Bundle, image: FramedImage) -> list[NDArray[np.bool_]]:
    decoder = MaskDecoder(bundle, Threads(1))
    candidates = decoder.decode(
        decoder.prepare(embed_framed(bundle, image)), clicks(CLICKS, image.size)
    )
    return [one.logits[1] > 0 for one in candidates]


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def main() -> None:
    bundle, limits, rows = load_bundle(SHIPPED / "nano"), EmbeddingSettings().image_limits, []
    rng = np.random.default_rng(0)
    for megapixels in MEGAPIXELS:
        data = mosaic(megapixels)
        times = medians(
            {"ours": partial(frame_image, data, FRAME, limits), "whole": partial(whole, data)},
            ROUNDS,
        )
        ours, theirs = frame_image(data, FRAME, limits), whole(data)
        equal = np.array_equal(ours.pixels, theirs.pixels)
        goal = "" if equal else "<= 0.6"
        rows.append(
            Row(
                f"{megapixels} MP JPEG to frame",
                times["ours"],
                "ms",
                "Pillow, whole",
                times["whole"],
                goal,
            )
        )
        if equal:
            continue
        noise = rng.integers(-1, 2, theirs.pixels.shape)
        noisy = replace(theirs, pixels=np.clip(theirs.pixels + noise, 0, 255).astype(np.uint8))
        same, near, far = (best_masks(bundle, image) for image in (theirs, ours, noisy))
        iou, peer = (float(np.mean(list(map(overlap, same, other)))) for other in (near, far))
        inside = np.abs(ours.pixels.astype(int) - theirs.pixels)[
            : theirs.valid.height, : theirs.valid.width
        ]
        rows.append(
            Row(
                f"{megapixels} MP: mean difference",
                float(inside.mean()),
                "levels",
                "one level",
                1,
                "<= 1",
            )
        )
        rows.append(
            Row(
                f"{megapixels} MP: largest difference",
                float(inside.max()),
                "levels",
                "24 levels",
                24,
                "<= 1",
            )
        )
        rows.append(
            Row(f"{megapixels} MP: masks' IoU", iou, "", "noise of one level", peer, ">= 0.995")
        )
    report("image", rows)


if __name__ == "__main__":
    main()
