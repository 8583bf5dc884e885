"""Whether an encoder may serve in place of the exported one: figures, thresholds and, where they are missed, reasons.

Averages hide the worst: a graph whose LayerNorm overflows on one picture of eight has a fine mean. So every picture
must hold, and masks are judged beside the embeddings, as they are what a caller sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from samserve.core.geometry import Size
from samserve.core.image import FramedImage
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.variants.gate.images import Picture
from samserve.variants.gate.masks import Overlaps, Tensors, overlaps

Encoder = Callable[
    [FramedImage], Tensors
]  # to fp16 tensors by their names, as EmbeddingService caches them
ONE_CHANNEL = 0.5  # of the squared error: so much in one channel is worth a word


@dataclass(frozen=True, slots=True)
class Thresholds:
    """cosine: the least between two tensors of a picture; mean_iou and worst_iou: of all masks that count."""

    cosine: float = 0.999
    mean_iou: float = 0.99
    worst_iou: float = 0.95


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one picture. cosine: by tensor; not_finite: values that are NaN or infinite, the reference's among them;
    masks: pairs that count; too_small: pairs left out (masks.overlaps). Without masks the IoUs are 1;
    where a value is not finite there is one, of IoU 0.
    """

    picture: str
    cosine: dict[str, float]
    not_finite: int
    masks: int
    too_small: int
    mean_iou: float
    worst_iou: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the gate found. cosine and worst_iou: the least of all; mean_iou: of all masks that count."""

    passed: bool
    reasons: list[str]
    thresholds: Thresholds
    cosine: float
    masks: int
    too_small: int
    mean_iou: float
    worst_iou: float
    pictures: list[Figures]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    decoder: MaskDecoder,
    pictures: Sequence[Picture],
    reference: Sequence[Tensors],
    candidate: Encoder,
    thresholds: Thresholds = Thresholds(),
    advance: Callable[[], object] = lambda: None,
) -> Report:
    """Hold a candidate against the reference's tensors of the same pictures; `advance` is called after each."""
    figures: list[Figures] = []
    answers: list[Tensors] = []
    for picture, wanted in zip(pictures, reference, strict=True):
        answers.append(candidate(picture.image))
        figures.append(_figures(decoder, picture, wanted, answers[-1]))
        advance()
    masks = sum(one.masks for one in figures)
    report = Report(
        passed=False,
        reasons=[],
        thresholds=thresholds,
        cosine=min(min(one.cosine.values()) for one in figures),
        masks=masks,
        too_small=sum(one.too_small for one in figures),
        mean_iou=sum(one.mean_iou * one.masks for one in figures) / masks if masks else 0.0,
        worst_iou=min(one.worst_iou for one in figures),
        pictures=figures,
    )
    reasons = _reasons(report)
    if reasons and report.cosine < thresholds.cosine:
        worst = int(np.argmin([min(one.cosine.values()) for one in figures]))
        reasons += _causes(pictures[worst], reference[worst], answers[worst], candidate)
    return replace(report, passed=not reasons, reasons=reasons)


def _figures(decoder: MaskDecoder, picture: Picture, wanted: Tensors, got: Tensors) -> Figures:
    not_finite = sum(
        int(np.count_nonzero(~np.isfinite(tensor))) for tensor in (*wanted.values(), *got.values())
    )
    if not_finite:
        return Figures(picture.name, dict.fromkeys(wanted, 0.0), not_finite, 1, 0, 0.0, 0.0)
    found: Overlaps = overlaps(decoder, wanted, got, picture.image.size)
    ious = found.ious or [1.0]
    cosines = {name: cosine(tensor, got[name]) for name, tensor in wanted.items()}
    return Figures(
        picture.name, cosines, 0, len(found.ious), found.too_small, float(np.mean(ious)), min(ious)
    )


def cosine(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Of two tensors as vectors; 0 if either is zero."""
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0


def _reasons(report: Report) -> list[str]:
    """A sentence for each threshold that is missed."""
    limits = report.thresholds
    found = [
        f"the embeddings of {one.picture} hold {one.not_finite:,} values that are not finite: fp16 ends at 65,504, "
        "so run LayerNorm and softmax in fp32"
        for one in report.pictures
        if one.not_finite
    ]
    if found:
        return found
    low = [one for one in report.pictures if min(one.cosine.values()) < limits.cosine]
    if low:
        worst = min(low, key=lambda one: min(one.cosine.values()))
        tensor, value = min(worst.cosine.items(), key=lambda item: item[1])
        cause = (
            "its preprocessing or its weights differ"
            if value < 0.9
            else "digits are lost, or a part differs"
        )
        found.append(
            f"the cosine of {tensor!r} is below {limits.cosine:g} on {len(low)} of {len(report.pictures)} pictures, "
            f"{value:.4f} on {worst.picture}: {cause}"
        )
    if not report.masks:
        found.append("no mask was large enough to be compared: give other pictures")
    elif report.mean_iou < limits.mean_iou:
        found.append(f"the masks' mean IoU is {report.mean_iou:.4f}, not {limits.mean_iou:g}")
    if report.worst_iou < limits.worst_iou:
        worst = min(report.pictures, key=lambda one: one.worst_iou)
        found.append(
            f"a mask of {worst.picture} has an IoU of {report.worst_iou:.3f}, not {limits.worst_iou:g}"
        )
    return found


def _causes(picture: Picture, wanted: Tensors, got: Tensors, candidate: Encoder) -> list[str]:
    """Sentences on mistakes that can be told from the answers: the input misread, or one channel gone astray."""
    image, found = picture.image, []
    before = min(cosine(tensor, got[name]) for name, tensor in wanted.items())
    misread = {
        "it takes RGB for BGR: swap the channels of its input": replace(
            image, pixels=image.pixels[..., ::-1].copy()
        ),
        "it takes `valid` for width and height: it is height and width": replace(
            image, valid=Size(image.valid.height, image.valid.width)
        ),
    }
    for sentence, other in misread.items():
        answer = candidate(other)
        after = min(cosine(tensor, answer[name]) for name, tensor in wanted.items())
        if after > before and 1 - after < 0.1 * (1 - before):
            found.append(sentence)
    for name, tensor in wanted.items():
        axes = tuple(range(1, tensor.ndim))
        errors = np.square(tensor.astype(np.float64) - got[name]).sum(axes)
        share = float(errors.max() / errors.sum()) if errors.sum() else 0.0
        if share > ONE_CHANNEL:
            found.append(
                f"{share:.0%} of the error lies in channel {int(errors.argmax())} of {name!r}"
            )
    return found
