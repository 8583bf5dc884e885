"""Training prompts, drawn as SAM's authors draw them: clicks anywhere inside, jittered boxes, corrective clicks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Mask = NDArray[np.bool_]

FOREGROUND, BACKGROUND, BOX_CORNERS, PAD = 1, 0, (2, 3), -1


@dataclass(frozen=True, slots=True)
class Tokens:
    """points: [K, 2] x, y in frame pixels; labels: [K], SAM's labels."""

    points: NDArray[np.float32]
    labels: NDArray[np.float32]


def deepest(mask: Mask) -> tuple[float, float]:
    """x, y of the pixel farthest from the mask's outline: the click a person would make."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x), float(y)


def anywhere(rng: Rng, mask: Mask) -> tuple[float, float]:
    """x, y of a pixel of the mask, each as likely as any other."""
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return float(x), float(y)


def click(rng: Rng, mask: Mask) -> tuple[float, float]:
    """A click on the mask: half the time where a person would aim."""
    return deepest(mask) if rng.random() < 0.5 else anywhere(rng, mask)


def loose_box(rng: Rng, mask: Mask) -> NDArray[np.float32]:
    """[2, 2] corners of the mask's box, each side moved by a tenth of its length (normal, at most 20 pixels)."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    jitter = np.clip(rng.normal(0, 0.1, 4) * (w, h, w, h), -20, 20)
    return (np.array([x, y, x + w, y + h]) + jitter).reshape(2, 2).astype(np.float32)


def prompt(rng: Rng, mask: Mask, clicks: int, box: bool) -> Tokens:
    """Clicks inside, then a box or SAM's one padding token."""
    points = [click(rng, mask) for _ in range(clicks)]
    labels = [float(FOREGROUND)] * clicks
    tail = loose_box(rng, mask) if box else np.zeros((1, 2), np.float32)
    kinds = BOX_CORNERS if box else (PAD,)
    placed = np.concatenate([np.array(points, np.float32).reshape(-1, 2), tail])
    return Tokens(placed, np.array([*labels, *kinds], np.float32))


def corrective(rng: Rng, wanted: Mask, answered: Mask, before: Tokens) -> Tokens:
    """`before` with one more click in front: on what the answer missed, or on what it took too much."""
    wrong = wanted ^ answered
    if not wrong.any():
        wrong = wanted
    x, y = click(rng, wrong)
    label = FOREGROUND if wanted[int(y), int(x)] else BACKGROUND
    return Tokens(
        np.concatenate([np.array([[x, y]], np.float32), before.points]),
        np.concatenate([np.array([label], np.float32), before.labels]),
    )
