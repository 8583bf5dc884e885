"""Drawn scenes with known masks: textured shapes over a textured ground.

A scene stands in for a photo with perfect annotation. Shapes occlude one another, cast shadows and
are shaded; they may share one surface with their neighbours. The whole is blurred and noisy like a
camera's picture, and sometimes grey. Surfaces are random noise or crops of scikit-image's bundled
photos (`PHOTOS`, without the coins, on which nano is measured).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Rng = np.random.Generator

PHOTOS = [
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "moon.png",
    "camera.png",
    "retina.jpg",
]


SIDE = 512  # pixels of a scene
VALIDATION_SEED = 10_000_000  # scenes from here on are never trained on


@dataclass(frozen=True, slots=True)
class Scene:
    """image: [S, S, 3] RGB; labels: [S, S], 0 is ground, k the k-th object's visible part."""

    image: Bytes
    labels: Bytes


def draw(seed: int, size: int = SIDE) -> Scene:
    """Draw one scene; the same seed and size give the same scene."""
    rng = np.random.default_rng(seed)
    image = _surface(rng, size, size, size)
    labels = np.zeros((size, size), np.uint8)
    shared = _noise_maker(rng, size) if rng.random() < 0.3 else None
    for label in range(1, int(rng.integers(2, 14)) + 1):
        mask = _shape(rng, size)
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0:
            continue
        surface = (
            shared(h, w) + rng.normal(0, 8, 3).astype(np.float32)
            if shared
            else _surface(rng, h, w, size)
        )
        _paint(rng, image, mask, surface, (x, y, w, h))
        labels[mask > 0] = label
    return Scene(_photograph(rng, image), labels)


def _paint(
    rng: Rng, image: Floats, mask: Bytes, surface: Floats, box: tuple[int, int, int, int]
) -> None:
    """Lay one shaded, softly outlined object and its shadow onto `image`, in place."""
    size = image.shape[0]
    x, y, w, h = box
    inside = mask[y : y + h, x : x + w]
    if rng.random() < 0.4:
        depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        surface = surface + ((depth / (depth.max() + 1e-3))[..., None] - 0.5) * rng.uniform(-60, 90)
    margin = size // 16
    y0, y1, x0, x1 = (
        max(0, y - margin),
        min(size, y + h + margin),
        max(0, x - margin),
        min(size, x + w + margin),
    )
    around = mask[y0:y1, x0:x1].astype(np.float32)
    reach = size // 42
    if rng.random() < 0.3:
        shift = (int(rng.integers(-reach, reach + 1)), int(rng.integers(-reach, reach + 1)))
        shadow = cv2.GaussianBlur(
            np.roll(around, shift, (0, 1)), (0, 0), rng.uniform(1, 4) * size / 256
        )
        image[y0:y1, x0:x1] *= 1 - 0.5 * shadow[..., None]
    alpha = cv2.GaussianBlur(around, (0, 0), rng.uniform(0.3, 1.0) * size / 256)[..., None]
    full = cv2.copyMakeBorder(surface, y - y0, y1 - y - h, x - x0, x1 - x - w, cv2.BORDER_REPLICATE)
    image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - alpha) + full * alpha


def _photograph(rng: Rng, image: Floats) -> Bytes:
    scale = image.shape[0] / 256
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3) * scale)
    if rng.random() < 0.2:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 8) * scale)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _surface(rng: Rng, h: int, w: int, size: int) -> Floats:
    return _photo_surface(rng, h, w, size) if rng.random() < 0.35 else _noise_maker(rng, size)(h, w)


def _noise_maker(rng: Rng, size: int) -> Callable[[int, int], Floats]:
    """A kind of noise: surfaces of any height and width are cut from it; look-alikes share one."""
    base = rng.uniform(0, 255, 3).astype(np.float32)
    octaves = [
        (s, 3 if rng.random() < 0.3 else 1, rng.uniform(0, 30) * rng.random())
        for s in (4, 8, 16, 32, 64)
    ]
    slope = (rng.uniform(0, 2 * np.pi), rng.normal(0, 80, 3)) if rng.random() < 0.4 else None
    waves = (
        (rng.uniform(0.05, 0.6), rng.uniform(0, np.pi), rng.normal(0, 40, 3))
        if rng.random() < 0.2
        else None
    )

    def make(h: int, w: int) -> Floats:
        surface = np.broadcast_to(base, (h, w, 3)).copy()
        for cells, channels, strength in octaves:
            grid = (max(2, round(cells * h / size)), max(2, round(cells * w / size)))
            grain = rng.standard_normal((*grid, channels), np.float32) * np.float32(strength)
            surface += cv2.resize(grain, (w, h), interpolation=cv2.INTER_CUBIC).reshape(
                h, w, channels
            )
        yy, xx = np.ogrid[:h, :w]
        if slope is not None:
            angle, tint = slope
            ramp = (np.cos(angle) * xx / w + np.sin(angle) * yy / h - 0.5)[..., None]
            surface += (ramp * tint).astype(np.float32)
        if waves is not None:
            frequency, angle, tint = waves
            phase = frequency * 256 / size * (np.cos(angle) * xx + np.sin(angle) * yy)
            surface += (np.sin(phase)[..., None] * tint).astype(np.float32)
        return surface

    return make


@cache
def _photos() -> tuple[Bytes, ...]:
    folder = Path(skimage.__file__).parent / "data"
    photos = (cv2.imread(str(folder / name)) for name in PHOTOS)
    return tuple(
        np.ascontiguousarray(photo[..., ::-1], np.uint8) for photo in photos if photo is not None
    )


def _photo_surface(rng: Rng, h: int, w: int, size: int) -> Floats:
    photo = _photos()[int(rng.integers(len(_photos())))]
    short = min(photo.shape[:2])
    side = rng.uniform(0.2, 1) * short
    ch, cw = max(8, int(side * h / size)), max(8, int(side * w / size))
    y, x = int(rng.integers(photo.shape[0] - ch + 1)), int(rng.integers(photo.shape[1] - cw + 1))
    crop = cv2.resize(photo[y : y + ch, x : x + cw], (w, h), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    if rng.random() < 0.5:
        crop = crop[..., rng.permutation(3)]
    return crop * np.float32(rng.uniform(0.6, 1.2)) + rng.normal(0, 20, 3).astype(np.float32)


def _shape(rng: Rng, size: int) -> Bytes:
    """[S, S] 0/1: an ellipse, blob, polygon or stroke; its radius is 4% to 38% of the frame."""
    mask = np.zeros((size, size), np.uint8)
    radius = size * np.exp(rng.uniform(np.log(0.04), np.log(0.38)))
    cx, cy = rng.uniform(0, size, 2)
    kind = rng.random()
    if kind < 0.3:
        axes = (max(2, int(radius)), max(2, int(radius * rng.uniform(0.3, 1))))
        cv2.ellipse(mask, (int(cx), int(cy)), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    elif kind < 0.65:
        angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
        reach = np.ones_like(angle)
        for harmonic in range(1, 7):
            reach += rng.normal(0, 0.35 / harmonic) * np.cos(
                harmonic * angle + rng.uniform(0, 2 * np.pi)
            )
        cv2.fillPoly(mask, [_ring(cx, cy, np.clip(reach, 0.15, 2.2) * radius, angle)], 1)
    elif kind < 0.9:
        corners = int(rng.integers(3, 9))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        cv2.fillPoly(mask, [_ring(cx, cy, radius * rng.uniform(0.5, 1.3, corners), angle)], 1)
    else:
        turn = np.cumsum(rng.normal(0, 0.5, int(rng.integers(3, 10)))) + rng.uniform(0, 2 * np.pi)
        xs = cx + np.cumsum(radius * 0.4 * np.cos(turn))
        ys = cy + np.cumsum(radius * 0.4 * np.sin(turn))
        path = np.stack([xs, ys], 1).astype(np.int32)
        cv2.polylines(mask, [path], False, 1, max(2, int(radius * 0.25)))
    return mask


def _ring(
    cx: float, cy: float, reach: NDArray[np.float64], angle: NDArray[np.float64]
) -> NDArray[np.int32]:
    return np.stack([cx + reach * np.cos(angle), cy + reach * np.sin(angle)], 1).astype(np.int32)
