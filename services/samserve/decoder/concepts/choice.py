"""Chooses the instances to return: by score, by overlap, by number. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samserve.core.arrays import Floats, Halves
from samserve.core.detections import Detections

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance.

    Attributes:
        concept: Number of its concept in the request.
        score: How sure the model is of it.
        box: [4] x0, y0, x1, y1 in source pixels.
        logits: [L, L], low-res.
    """

    concept: int
    score: float
    box: Floats
    logits: Halves


@dataclass(frozen=True, slots=True)
class Choice:
    """The instances of one concept, best first.

    Attributes:
        instances: Those to return.
        cut_off: Whether there may be more that pass the threshold.
    """

    instances: list[Candidate]
    cut_off: bool


def choose(
    found: Mapping[int, Detections], max_overlap: float = 0.0, most: int = 0
) -> dict[int, Choice]:
    """Choose from the instances of each concept that passed its threshold.

    Takes time with `max_overlap` and many instances, so call it from a thread.

    Args:
        found: By the concept's number, with masks.
        max_overlap: IoU of two masks from which the lower-scored one is left out; 0 for never.
        most: Instances of a concept; 0 for all.
    """
    candidates = {number: _candidates(number, each) for number, each in found.items()}
    if max_overlap > 0:
        every = (each for some in candidates.values() for each in some)
        ranked = sorted(every, key=lambda each: each.score, reverse=True)
        kept = set(map(id, _without_overlap(ranked, max_overlap)))
        candidates = {
            number: [each for each in some if id(each) in kept]
            for number, some in candidates.items()
        }

    return {
        number: Choice(some[: most or None], found[number].cut_off or 0 < most < len(some))
        for number, some in candidates.items()
    }


def _candidates(number: int, detections: Detections) -> list[Candidate]:
    if detections.logits is None:
        raise ValueError("the masks must be drawn first")
    return [
        Candidate(number, float(score), box, logits)
        for score, box, logits in zip(
            detections.scores, detections.boxes, detections.logits, strict=True
        )
    ]


def _without_overlap(ranked: list[Candidate], most: float) -> list[Candidate]:
    """Keep each mask that has less than this IoU with every better one that is kept."""
    kept: list[Candidate] = []
    words: list[Words] = []
    areas: list[int] = []
    for candidate in ranked:
        mask = _words(candidate.logits)
        area = int(np.bitwise_count(mask).sum())
        # Masks of areas a < b have an IoU of at most a / b.
        rivals = [
            index
            for index, other in enumerate(areas)
            if min(area, other) >= most * max(area, other)
        ]
        if rivals and area:
            others = np.stack([words[index] for index in rivals])
            shared = np.bitwise_count(others & mask).sum(axis=1, dtype=np.int64)
            united = area + np.array([areas[index] for index in rivals]) - shared
            if (shared >= most * united).any():
                continue
        kept.append(candidate)
        words.append(mask)
        areas.append(area)
    return kept


def _words(logits: Halves) -> Words:
    """Return the mask, [L, L], as the bits of whole words."""
    bits = np.packbits(logits > 0)
    return np.pad(bits, (0, -len(bits) % 8)).view(np.uint64)
