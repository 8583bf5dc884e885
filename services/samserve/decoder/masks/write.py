"""Writes masks in the forms that a caller asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from samserve.core import runs
from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size
from samserve.core.rle import encode_rle
from samserve.decoder.masks.outline import outline
from samserve.decoder.masks.png import encode_png
from samserve.decoder.masks.polygons import Polygon, polygons


@dataclass(frozen=True, slots=True)
class Output:
    """What a caller wants of each mask.

    Attributes:
        rle: Whether to write the mask as COCO RLE; likewise `png`, `polygons` and `bits`.
        low_res_logits: Whether to return the logits, as input for the next prompt.
        polygon_tolerance: How far polygons may be from the mask's outline, in pixels.
        max_masks: How many masks of each prompt to return; 0 means all.
    """

    rle: bool = False
    png: bool = False
    polygons: bool = False
    bits: bool = False
    low_res_logits: bool = False
    polygon_tolerance: float = 0.0
    max_masks: int = 0


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """One mask; forms that were not asked for are None.

    Attributes:
        predicted_iou: The model's estimate of the mask's quality.
        stability_score: How little the mask changes with the threshold.
        area: In pixels.
        box: Around the mask, in pixels.
        rle: COCO's compressed counts.
        png: An 8-bit grey image.
        polygons: Outlines with holes.
        bits: Rows of whole bytes, the first pixel in the highest bit.
        low_res_logits: fp16, row-major.
    """

    predicted_iou: float
    stability_score: float
    area: int
    box: runs.Box
    rle: bytes | None
    png: bytes | None
    polygons: list[Polygon] | None
    bits: bytes | None
    low_res_logits: bytes | None


class ScoredLogits(Protocol):
    """The candidate masks of one prompt, best first."""

    @property
    def logits(self) -> Floats: ...  # [M, L, L]
    @property
    def predicted_iou(self) -> Floats: ...  # [M]
    @property
    def stability(self) -> Floats: ...  # [M]


def check_output(output: Output) -> None:
    """Check a caller's options.

    Raises:
        InvalidInput: One is invalid; the error names the field.
    """
    tolerance = output.polygon_tolerance
    if not 0 <= tolerance < math.inf:
        field = "output.polygon_tolerance"
        raise InvalidInput(
            field, f"invalid {field} {tolerance:g}: expected a number of pixels, 0 or more"
        )


def write_masks(
    candidates: ScoredLogits, size: Size, frame: Frame, output: Output
) -> list[MaskAnswer]:
    """Write as many candidates as are asked for, best first. Arguments as of `write_mask`."""
    masks = zip(candidates.logits, candidates.predicted_iou, candidates.stability, strict=True)
    return [
        write_mask(logits, (float(iou), float(stability)), size, frame, output)
        for logits, iou, stability in islice(masks, output.max_masks or None)
    ]


def write_mask(
    logits: Floats, scores: tuple[float, float], size: Size, frame: Frame, output: Output
) -> MaskAnswer:
    """Write one mask.

    Args:
        logits: [L, L], low-res.
        scores: Predicted IoU and stability.
        size: Of the source image.
        frame: That the logits cover.
        output: The forms to write.
    """
    mask = outline(logits, size, frame)
    return MaskAnswer(
        predicted_iou=scores[0],
        stability_score=scores[1],
        area=runs.area(mask),
        box=runs.box(mask),
        rle=encode_rle(mask) if output.rle else None,
        png=encode_png(mask) if output.png else None,
        polygons=polygons(mask, output.polygon_tolerance) if output.polygons else None,
        bits=runs.bits(mask).tobytes() if output.bits else None,
        low_res_logits=logits.astype("<f2").tobytes() if output.low_res_logits else None,
    )
