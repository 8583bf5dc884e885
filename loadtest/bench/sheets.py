"""Sheets of images that show a model's answers beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtest.bench.outcomes import Outcome

TILE = 240  # pixels of a picture's side


def picture(outcome: Outcome) -> NDArray[np.uint8]:
    """[TILE, TILE, 3]: the answer tinted, the truth outlined in green, the click in red."""
    shown = outcome.image.copy()
    tint = np.array([30, 144, 255]) * 0.55
    shown[outcome.answer] = (shown[outcome.answer] * 0.45 + tint).astype(np.uint8)
    truth = outcome.truth.astype(np.uint8)
    outlines, _ = cv2.findContours(truth, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, outlines, -1, (0, 255, 0), 2)
    cv2.circle(shown, tuple(round(v) for v in outcome.click), 4, (255, 0, 0), -1)

    scale = TILE / max(shown.shape[:2])
    small = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile = np.zeros((TILE, TILE, 3), np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small[:TILE, :TILE]
    label = f"{outcome.first:.2f} {outcome.source}"
    cv2.putText(tile, label, (4, TILE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return tile


def sheet(outcomes: Sequence[Outcome], file: Path, columns: int = 6) -> None:
    """Write pictures side by side."""
    tiles = [picture(outcome) for outcome in outcomes]
    tiles += [np.zeros((TILE, TILE, 3), np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[n : n + columns]) for n in range(0, len(tiles), columns)]
    Image.fromarray(np.vstack(rows)).save(file)


def by_source(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The best, the median and the worst outcome of each source, by the first answer's IoU."""
    chosen = []
    for source in sorted({outcome.source for outcome in outcomes}):
        ranked = sorted(
            (o for o in outcomes if o.source == source), key=lambda o: o.first, reverse=True
        )
        chosen += [ranked[0], ranked[len(ranked) // 2], ranked[-1]]
    return chosen
