"""Training prompts as SAM's authors draw them: clicks, jittered boxes, corrective clicks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Mask = NDArray[np.bool_]

FOREGROUND, BACKGROUND, BOX_CORNERS, PAD = 1, 0, (2, 3), -1
LOOSEST = 0.1  # standard deviation of a loose box's sides, as a share of their length


@dataclass(frozen=True, slots=True)
class Tokens:
    """points: [K, 2] x, y in window pixels; labels: [K], SAM's labels."""

    points: NDArray[np.float32]
    labels: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """Content of a first prompt."""

    clicks: int
    box: bool


KINDS = (Kind(1, False), Kind(0, True), Kind(1, True), Kind(2, False), Kind(3, False))
CHANCES = (0.52, 0.28, 0.06, 0.09, 0.05)


def deepest(mask: Mask) -> tuple[float, float]:
    """x, y of the pixel farthest from the mask's outline: the click a person would make."""
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inside = np.pad(mask[y0 : y0 + height, x0 : x0 + width].astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x0 + x), float(y0 + y)


def anywhere(rng: Rng, mask: Mask) -> tuple[float, float]:
    """x, y of a pixel of the mask, each as likely as any other."""
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return float(x), float(y)


def click(rng: Rng, mask: Mask) -> tuple[float, float]:
    """A click on the mask: half of the time where a person would aim."""
    return deepest(mask) if rng.random() < 0.5 else anywhere(rng, mask)


def tight_box(mask: Mask) -> NDArray[np.float32]:
    """[2, 2] corners of the mask's bounding box."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([[x, y], [x + w, y + h]], np.float32)


def loose_box(rng: Rng, mask: Mask, spread: float = LOOSEST) -> NDArray[np.float32]:
    """[2, 2] corners of the mask's box, each side moved by `spread` of its length, 20 at most."""
    corners = tight_box(mask)
    width, height = corners[1] - corners[0]
    jitter = np.clip(rng.normal(0, spread, 4) * (width, height, width, height), -20, 20)
    return (corners + jitter.reshape(2, 2)).astype(np.float32)


def prompt(rng: Rng, mask: Mask, clicks: int, box: bool) -> Tokens:
    """Clicks inside, then a box or SAM's one padding token."""
    points = [click(rng, mask) for _ in range(clicks)]
    spread = float(rng.uniform(0, LOOSEST))
    tail = loose_box(rng, mask, spread) if box else np.zeros((1, 2), np.float32)
    kinds = BOX_CORNERS if box else (PAD,)
    placed = np.concatenate([np.array(points, np.float32).reshape(-1, 2), tail])
    return Tokens(placed, np.array([*[FOREGROUND] * clicks, *kinds], np.float32))


def corrective(rng: Rng, wanted: Mask, answered: Mask, before: Tokens) -> Tokens:
    """`before` with one more click in front: on a part that is missing, or one too much."""
    wrong = wanted ^ answered
    if not wrong.any():
        wrong = wanted
    x, y = click(rng, wrong)
    label = FOREGROUND if wanted[int(y), int(x)] else BACKGROUND
    return Tokens(
        np.concatenate([np.array([[x, y]], np.float32), before.points]),
        np.concatenate([np.array([label], np.float32), before.labels]),
    )
