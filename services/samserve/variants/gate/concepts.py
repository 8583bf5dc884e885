"""Decides whether a concept head may replace the exported one: by presence, scores and instances.

An engine can be silently wrong: of SAM 3's detector, a published one gave a score of 0.045 for an
object of 0.933. Averages would hide that, so every concept must pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from samserve.core.arrays import Floats, Halves
from samserve.core.detections import FLOOR


@dataclass(frozen=True, slots=True)
class HeadThresholds:
    """The limits of the gate for heads.

    Attributes:
        presence: Largest difference of a presence.
        score: Largest difference of the scores of two instances that are the same.
        mean_iou: Least mean IoU of the masks of such pairs.
        worst_iou: Least IoU of any.
        threshold: Default threshold of the model.
        margin: An instance this far above the threshold must not be this far below it.
    """

    presence: float = 0.02
    score: float = 0.03
    mean_iou: float = 0.99
    worst_iou: float = 0.95
    threshold: float = 0.5
    margin: float = 0.05


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What a head found of one concept on one image.

    Attributes:
        name: Of the image and the concept, for messages.
        presence: 0 to 1.
        scores: [K], best first.
        masks: [K, L, L] low-res logits.
    """

    name: str
    presence: float
    scores: Floats
    masks: Halves


@dataclass(frozen=True, slots=True)
class ConceptScores:
    """Results for one concept on one image.

    Attributes:
        name: Of both.
        not_finite: Values in both answers that are NaN or infinite.
        presence: Difference of the presences.
        score: Largest difference of the scores of pairs.
        instances: Pairs that count: those whose score in the reference is over the floor.
        mean_iou: Of their masks; 1 if there are none.
        worst_iou: Likewise.
        flipped: Instances that one head finds surely, and the other surely not.
    """

    name: str
    not_finite: int = 0
    presence: float = 0.0
    score: float = 0.0
    instances: int = 0
    mean_iou: float = 1.0
    worst_iou: float = 1.0
    flipped: int = 0


@dataclass(frozen=True, slots=True)
class HeadReport:
    """The gate's decision about a head.

    Attributes:
        passed: Whether it may be served.
        reasons: Why not; empty if it passed.
        thresholds: That were applied.
        concepts: Results for each concept on each image.
    """

    passed: bool
    reasons: list[str]
    thresholds: HeadThresholds
    concepts: list[ConceptScores]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_head(
    reference: Sequence[HeadAnswer],
    candidate: Sequence[HeadAnswer],
    thresholds: HeadThresholds = HeadThresholds(),
) -> HeadReport:
    """Compare a candidate's answers with the exported head's, in the same order."""
    concepts = [
        _score(expected, got, thresholds)
        for expected, got in zip(reference, candidate, strict=True)
    ]
    report = HeadReport(False, [], thresholds, concepts)
    reasons = [*_reasons(report)]
    return replace(report, passed=not reasons, reasons=reasons)


def _score(expected: HeadAnswer, got: HeadAnswer, limits: HeadThresholds) -> ConceptScores:
    values = (expected.scores, expected.masks, got.scores, got.masks)
    presences = np.array([expected.presence, got.presence])
    not_finite = sum(int(np.count_nonzero(~np.isfinite(each))) for each in (*values, presences))
    if not_finite:
        return ConceptScores(expected.name, not_finite=not_finite)

    ious = mask_ious(expected.masks, got.masks)
    counted = expected.scores > FLOOR
    pairs = ious[counted].argmax(1)
    best = ious[counted].max(1)
    differences = np.abs(expected.scores[counted] - got.scores[pairs])
    return ConceptScores(
        name=expected.name,
        presence=abs(expected.presence - got.presence),
        score=float(differences.max(initial=0.0)),
        instances=int(counted.sum()),
        mean_iou=float(best.mean()) if len(best) else 1.0,
        worst_iou=float(best.min(initial=1.0)),
        flipped=_flipped(expected, got, ious, limits) + _flipped(got, expected, ious.T, limits),
    )


def _flipped(one: HeadAnswer, other: HeadAnswer, ious: Floats, limits: HeadThresholds) -> int:
    """Count the instances that are sure in one answer, and whose match in the other is not."""
    sure = one.scores > limits.threshold + limits.margin
    matches = other.scores[ious[sure].argmax(1)] if sure.any() else np.zeros(0)
    return int(np.count_nonzero(matches < limits.threshold - limits.margin))


def mask_ious(masks: Halves, others: Halves) -> Floats:
    """Return the IoU of each mask with each other, [M, N]; two empty masks are the same."""
    first = (masks > 0).reshape(len(masks), -1).astype(np.float32)
    second = (others > 0).reshape(len(others), -1).astype(np.float32)
    shared = first @ second.T
    united = first.sum(1)[:, None] + second.sum(1) - shared
    ious: Floats = np.where(united > 0, shared / np.maximum(united, 1), 1).astype(np.float32)
    return ious


def _reasons(report: HeadReport) -> Iterator[str]:
    """Yield a sentence for each threshold that is missed."""
    limits, concepts = report.thresholds, report.concepts
    broken = [each for each in concepts if each.not_finite]
    for each in broken:
        yield f"the answer to {each.name} has {each.not_finite:,} values that are not finite"
    if broken:
        return

    worst = max(concepts, key=lambda each: each.presence)
    if worst.presence > limits.presence:
        yield (
            f"the presence of {worst.name} differs by {worst.presence:.3f}, "
            f"allowed: {limits.presence:g}"
        )
    worst = max(concepts, key=lambda each: each.score)
    if worst.score > limits.score:
        yield f"a score of {worst.name} differs by {worst.score:.3f}, allowed: {limits.score:g}"

    for each in concepts:
        if each.flipped:
            yield f"{each.flipped} instances of {each.name} are found by one head alone"

    pairs = sum(each.instances for each in concepts)
    if not pairs:
        yield "no instance scored enough to be compared; use other images or phrases"
        return
    mean = sum(each.mean_iou * each.instances for each in concepts) / pairs
    if mean < limits.mean_iou:
        yield f"mean IoU of the instances is {mean:.4f}, required: {limits.mean_iou:g}"
    worst = min(concepts, key=lambda each: each.worst_iou)
    if worst.worst_iou < limits.worst_iou:
        yield (
            f"IoU of an instance of {worst.name} is {worst.worst_iou:.3f}, "
            f"required: {limits.worst_iou:g}"
        )
