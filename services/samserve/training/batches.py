"""Training batches: windows of photos and of drawn scenes, with masks and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samserve.training import augment, prompts, scenes, windows
from samserve.training.encoder import PIXEL_MEAN, PIXEL_STD
from samserve.training.photos import Bytes, Mask, Outline, Photo, sampling_weights

Rng = np.random.Generator

DRAWN = 0.2  # share of windows that show a drawn scene
PASTED = 0.35  # share of photo windows with objects of other photos
LEAST_AREA = 300  # window pixels of a mask
MOST_MASKS = 12  # masks decoded for a window
KEPT_SCENES, SCENE_USES = 200, 4  # scenes in memory, and windows of each on average


@dataclass(frozen=True, slots=True)
class Batch:
    """pixels: [B, 3, W, W] normalised; per prompt its image, owner [N], mask [N, W, W], tokens."""

    pixels: Tensor
    owner: Tensor
    wanted: NDArray[np.bool_]
    tokens: list[prompts.Tokens]


@dataclass(frozen=True, slots=True)
class Picture:
    """A window before it is padded: image [H, W, 3], masks [H, W] each."""

    image: Bytes
    masks: list[Mask]


class Sampler:
    """Draws windows at random from photos and scenes."""

    def __init__(self, photos: list[Photo]) -> None:
        self._photos = photos
        self._weights = sampling_weights(photos)
        self._donors = [p for p in photos if any(_can_be_pasted(o, p) for o in p.outlines)]
        self._donor_weights = sampling_weights(self._donors)
        self._images: dict[Path, Bytes] = {}
        self._scenes: list[scenes.Scene] = []

    def batch(self, rng: Rng, *, side: int, images: int, count: int, kind: prompts.Kind) -> Batch:
        """`images` windows of `side` pixels with `count` prompts each."""
        pixels: list[Tensor] = []
        owner, wanted, tokens = [], [], []
        while len(pixels) < images:
            picture = self.picture(rng, side)
            masks = [mask for mask in picture.masks if np.count_nonzero(mask) >= LEAST_AREA]
            if not masks:
                continue

            # Larger masks more often: by the square root of the area.
            chances = np.sqrt(np.array([np.count_nonzero(mask) for mask in masks], np.float64))
            few = len(masks) < count
            chosen = rng.choice(len(masks), count, replace=few, p=chances / chances.sum())
            for index in chosen:
                mask = padded(masks[index], side)
                owner.append(len(pixels))
                wanted.append(mask)
                tokens.append(prompts.prompt(rng, mask, kind.clicks, kind.box))

            pixels.append(normalised(picture.image, side))

        return Batch(torch.stack(pixels), torch.tensor(owner), np.stack(wanted), tokens)

    def picture(self, rng: Rng, side: int) -> Picture:
        """One augmented window of at most `side` x `side` pixels."""
        drawn = rng.random() < DRAWN
        picture = self._scene(rng, side) if drawn else self._photo(rng, side)
        image, masks = augment.turn(rng, picture.image, picture.masks)

        if not drawn and rng.random() < PASTED:
            for _ in range(int(rng.integers(1, 4))):
                image, masks = self._pasted(rng, image, masks)

        return Picture(augment.degrade(rng, augment.recolour(rng, image)), masks)

    def _photo(self, rng: Rng, side: int) -> Picture:
        photo = self._photos[int(rng.choice(len(self._photos), p=self._weights))]
        size = (photo.width, photo.height)
        focus = _by_size(rng, [o.area for o in photo.outlines])
        outline = photo.outlines[focus]
        window = _window(rng, size, outline.box, outline.area, side)

        others = [o for n, o in enumerate(photo.outlines) if n != focus and _shows(o, window)]
        picked = rng.permutation(len(others))[: MOST_MASKS - 1]
        kept = [outline, *(others[n] for n in picked)]
        masks = [o.mask(photo.height, photo.width) for o in kept]
        return _cut(self._image(photo), masks, window)

    def _scene(self, rng: Rng, side: int) -> Picture:
        scene = self._drawn(rng)
        labels = [label for label in np.unique(scene.labels) if label]
        masks = [scene.labels == label for label in labels]
        if not masks:
            return Picture(scene.image, [])

        mask = masks[_by_size(rng, [int(mask.sum()) for mask in masks])]
        box = cv2.boundingRect(mask.astype(np.uint8))
        window = _window(rng, scene.image.shape[1::-1], box, int(mask.sum()), side)
        return _cut(scene.image, masks, window)

    def _image(self, photo: Photo) -> Bytes:
        """The photo's pixels; decoded once."""
        if photo.path not in self._images:
            self._images[photo.path] = photo.image()
        return self._images[photo.path]

    def _drawn(self, rng: Rng) -> scenes.Scene:
        """A scene from memory, or a new one in its place."""
        place = int(rng.integers(KEPT_SCENES))
        if place < len(self._scenes) and rng.random() * SCENE_USES > 1:
            return self._scenes[place]

        scene = scenes.draw(int(rng.integers(scenes.VALIDATION_SEED)))
        self._scenes[place : place + 1] = [scene]
        return scene

    def _pasted(self, rng: Rng, image: Bytes, masks: list[Mask]) -> tuple[Bytes, list[Mask]]:
        """With an object of another photo, 12% to 60% of the window's shorter side long."""
        photo = self._donors[int(rng.choice(len(self._donors), p=self._donor_weights))]
        outlines = [o for o in photo.outlines if _can_be_pasted(o, photo)]
        outline = outlines[int(rng.integers(len(outlines)))]

        # Cut the object out.
        x, y, width, height = outline.box
        shape = outline.mask(photo.height, photo.width)[y : y + height, x : x + width]
        cutting = self._image(photo)[y : y + height, x : x + width]

        # Scale it, and turn it around half of the time.
        length = np.exp(rng.uniform(np.log(0.12), np.log(0.6))) * min(image.shape[:2])
        scale = min(length / max(width, height), 3.0)
        window = windows.Window(0, 0, width, height, float(scale))
        cutting, shape = windows.cut_image(cutting, window), windows.cut_mask(shape, window)
        if rng.random() < 0.5:
            cutting, shape = cutting[:, ::-1], shape[:, ::-1]

        # Paste it, and drop the masks that it hides.
        areas = [mask.sum() for mask in masks]
        image, masks = augment.paste(rng, image, masks, augment.recolour(rng, cutting), shape)
        hidden = [mask.sum() < 0.4 * area for mask, area in zip(masks, areas, strict=False)]
        return image, [m for m, gone in zip(masks, [*hidden, False], strict=True) if not gone]


def padded(mask: Mask, side: int) -> Mask:
    """[side, side], False to the right of the mask and below."""
    canvas = np.zeros((side, side), bool)
    canvas[: mask.shape[0], : mask.shape[1]] = mask
    return canvas


def normalised(image: Bytes, side: int) -> Tensor:
    """[H, W, 3] RGB -> [3, side, side], zero to the right of the image and below, as SAM pads."""
    pixels = np.zeros((side, side, 3), np.float32)
    height, width = image.shape[:2]
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    pixels[:height, :width] = (image - mean) / std
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _window(
    rng: Rng, size: tuple[int, int], box: tuple[int, int, int, int], area: int, side: int
) -> windows.Window:
    scale = windows.choose_scale(rng, size, (box[2], box[3], area), side)
    return windows.place(rng, size, box, scale, side)


def _cut(image: Bytes, masks: list[Mask], window: windows.Window) -> Picture:
    """The window of an image, with the masks that show at least a quarter of themselves."""
    cut = [windows.cut_mask(mask, window) for mask in masks]
    least = 0.25 * window.scale**2
    kept = [c for c, mask in zip(cut, masks, strict=True) if c.sum() >= least * mask.sum()]
    return Picture(windows.cut_image(image, window), kept)


def _shows(outline: Outline, window: windows.Window) -> bool:
    x, y, width, height = outline.box
    across = min(x + width, window.x + window.width) - max(x, window.x)
    down = min(y + height, window.y + window.height) - max(y, window.y)
    return across > 0 and down > 0 and outline.area * window.scale**2 >= LEAST_AREA


def _by_size(rng: Rng, areas: list[int]) -> int:
    """An index, more often a large mask: by the square root of the area."""
    chances = np.sqrt(np.array(areas, np.float64))
    return int(rng.choice(len(areas), p=chances / chances.sum()))


def _can_be_pasted(outline: Outline, photo: Photo) -> bool:
    """Whether it is a separate object and large enough to look like one."""
    return outline.kind == "object" and outline.area > 0.004 * photo.width * photo.height
