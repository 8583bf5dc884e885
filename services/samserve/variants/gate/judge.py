"""Decides whether an encoder may replace the exported one, by thresholds on embeddings and masks.

Averages hide the worst case: a graph whose LayerNorm overflows on one image of eight has a fine
mean. So every image must pass. Masks are compared as well as embeddings, because they are what
clients see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from samserve.core.arrays import Array
from samserve.core.geometry import Size
from samserve.core.image import FramedImage
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.variants.gate.images import GateImage
from samserve.variants.gate.masks import Tensors, overlaps

# image -> fp16 tensors by name, as the embedding service caches them
Encoder = Callable[[FramedImage], Tensors]

WRONG_COSINE = 0.9  # below it an encoder is wrong, rather than imprecise
ONE_CHANNEL = 0.5  # share of the squared error; a channel with more of it is reported


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The limits of the gate.

    Attributes:
        cosine: Least cosine between two tensors of an image.
        mean_iou: Least mean IoU of all masks that count.
        worst_iou: Least IoU of any mask that counts.
    """

    cosine: float = 0.999
    mean_iou: float = 0.99
    worst_iou: float = 0.95


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Results for one image.

    Attributes:
        image: Its name.
        cosine: Between the reference's and the candidate's tensor, by the tensor's name.
        not_finite: Number of values in both embeddings that are NaN or infinite.
        masks: Number of mask pairs that count.
        too_small: Number of mask pairs that are left out, see masks.overlaps.
        mean_iou: Of the masks that count; 1 if there are none, 0 if a value is not finite.
        worst_iou: likewise.
    """

    image: str
    cosine: dict[str, float]
    not_finite: int
    masks: int
    too_small: int
    mean_iou: float
    worst_iou: float

    @property
    def worst_cosine(self) -> float:
        return min(self.cosine.values())


@dataclass(frozen=True, slots=True)
class Report:
    """The gate's decision.

    Attributes:
        passed: Whether the candidate may be served.
        reasons: Why not; empty if it passed.
        thresholds: That were applied.
        cosine: The lowest of all images and tensors.
        masks: Number of mask pairs that count.
        too_small: Number of mask pairs that are left out.
        mean_iou: Of all masks that count.
        worst_iou: The lowest of all images.
        images: Results for each image.
    """

    passed: bool
    reasons: list[str]
    thresholds: Thresholds
    cosine: float
    masks: int
    too_small: int
    mean_iou: float
    worst_iou: float
    images: list[ImageScores]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    decoder: MaskDecoder,
    images: Sequence[GateImage],
    reference: Sequence[Tensors],
    candidate: Encoder,
    *,
    thresholds: Thresholds = Thresholds(),
    advance: Callable[[], object] = lambda: None,
) -> Report:
    """Compare a candidate with the exported encoder.

    Args:
        decoder: Of the bundle.
        images: To encode.
        reference: The exported encoder's tensors for each image.
        candidate: The encoder to be judged.
        thresholds: That it must meet.
        advance: Called after each image.
    """
    scores: list[ImageScores] = []
    answers: list[Tensors] = []
    for image, expected in zip(images, reference, strict=True):
        answers.append(candidate(image.image))
        scores.append(_score(decoder, image, expected, answers[-1]))
        advance()

    masks = sum(score.masks for score in scores)
    report = Report(
        passed=False,
        reasons=[],
        thresholds=thresholds,
        cosine=min(score.worst_cosine for score in scores),
        masks=masks,
        too_small=sum(score.too_small for score in scores),
        mean_iou=sum(score.mean_iou * score.masks for score in scores) / masks if masks else 0.0,
        worst_iou=min(score.worst_iou for score in scores),
        images=scores,
    )

    reasons = [*_reasons(report)]
    if reasons and report.cosine < thresholds.cosine:
        worst = int(np.argmin([score.worst_cosine for score in scores]))
        reasons += _causes(images[worst], reference[worst], answers[worst], candidate)
    return replace(report, passed=not reasons, reasons=reasons)


def cosine(tensor: Array, other: Array) -> float:
    """Cosine of two tensors as vectors; 0 if either is zero."""
    a = tensor.astype(np.float64).ravel()
    b = other.astype(np.float64).ravel()
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0


def _score(decoder: MaskDecoder, image: GateImage, expected: Tensors, got: Tensors) -> ImageScores:
    tensors = (*expected.values(), *got.values())
    not_finite = sum(int(np.count_nonzero(~np.isfinite(tensor))) for tensor in tensors)
    if not_finite:
        return ImageScores(
            image=image.name,
            cosine=dict.fromkeys(expected, 0.0),
            not_finite=not_finite,
            masks=1,
            too_small=0,
            mean_iou=0.0,
            worst_iou=0.0,
        )

    agreement = overlaps(decoder, expected, got, image.image.size)
    ious = agreement.ious or [1.0]
    return ImageScores(
        image=image.name,
        cosine={name: cosine(tensor, got[name]) for name, tensor in expected.items()},
        not_finite=0,
        masks=len(agreement.ious),
        too_small=agreement.too_small,
        mean_iou=float(np.mean(ious)),
        worst_iou=min(ious),
    )


def _reasons(report: Report) -> Iterator[str]:
    """Yield a sentence for each threshold that is missed."""
    overflowed = [score for score in report.images if score.not_finite]
    for score in overflowed:
        yield (
            f"the embedding of {score.image} has {score.not_finite:,} values that are not finite; "
            "fp16 ends at 65,504, so run LayerNorm and softmax in fp32"
        )
    if overflowed:
        return

    limits = report.thresholds
    low = [score for score in report.images if score.worst_cosine < limits.cosine]
    if low:
        worst = min(low, key=lambda score: score.worst_cosine)
        tensor, value = min(worst.cosine.items(), key=lambda item: item[1])
        cause = "preprocessing or weights differ" if value < WRONG_COSINE else "precision is lost"
        yield (
            f"the cosine of {tensor!r} is below {limits.cosine:g} on {len(low)} of "
            f"{len(report.images)} images, {value:.4f} on {worst.image}: {cause}"
        )

    if not report.masks:
        yield "no mask was large enough to be compared; use other images"
    elif report.mean_iou < limits.mean_iou:
        yield f"mean IoU of the masks is {report.mean_iou:.4f}, required: {limits.mean_iou:g}"
    if report.worst_iou < limits.worst_iou:
        worst = min(report.images, key=lambda score: score.worst_iou)
        yield (
            f"IoU of a mask of {worst.image} is {report.worst_iou:.3f}, "
            f"required: {limits.worst_iou:g}"
        )


def _causes(image: GateImage, expected: Tensors, got: Tensors, candidate: Encoder) -> Iterator[str]:
    """Yield a sentence for each mistake that explains the answers of one image."""
    # Would the answer be right if the candidate misread its input in a known way?
    framed = image.image
    before = min(cosine(tensor, got[name]) for name, tensor in expected.items())
    misreadings = {
        "the encoder takes RGB for BGR; swap the channels of its input": replace(
            framed, pixels=framed.pixels[..., ::-1].copy()
        ),
        "the encoder takes `valid` for width and height; it is height and width": replace(
            framed, valid=Size(framed.valid.height, framed.valid.width)
        ),
    }
    for sentence, misread in misreadings.items():
        answer = candidate(misread)
        after = min(cosine(tensor, answer[name]) for name, tensor in expected.items())
        if after > before and 1 - after < 0.1 * (1 - before):
            yield sentence

    # Does one channel contain most of the error?
    for name, tensor in expected.items():
        axes = tuple(range(1, tensor.ndim))
        errors = np.square(tensor.astype(np.float64) - got[name]).sum(axes)
        share = float(errors.max() / errors.sum()) if errors.sum() else 0.0
        if share > ONE_CHANNEL:
            yield f"{share:.0%} of the error is in channel {int(errors.argmax())} of {name!r}"
