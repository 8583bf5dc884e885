"""Writes masks in the forms that a caller asks for."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from samserve.core import runs
from samserve.core.arrays import Floats, Ints
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Frame, Size
from samserve.core.rle import encode_rle
from samserve.decoder.masks.answer_size import AnswerSize
from samserve.decoder.masks.outline import outline
from samserve.decoder.masks.png import encode_png
from samserve.decoder.masks.polygons import Polygon, polygons
from samserve.decoder.prompt import Prompt

CANDIDATES = 3  # masks of a prompt with `multimask`

# Bytes in a message beside the forms themselves: numbers, keys and lengths.
MASK_OVERHEAD = 100
RING_OVERHEAD = 12


@dataclass(frozen=True, slots=True)
class Output:
    """What a caller wants of each mask.

    Attributes:
        rle: Whether to write the mask as COCO RLE; likewise `png`, `polygons` and `bits`.
        low_res_logits: Whether to return the logits, as input for the next prompt.
        polygon_tolerance: How far polygons may be from the mask's outline, in pixels.
        max_masks: How many masks of each prompt to return; 0 means all.
        max_bytes: Limit of all masks of an answer together, in bytes.
    """

    rle: bool = False
    png: bool = False
    polygons: bool = False
    bits: bool = False
    low_res_logits: bool = False
    polygon_tolerance: float = 0.0
    max_masks: int = 0
    max_bytes: int = sys.maxsize


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
        candidate: Number among the decoder's outputs.
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
    candidate: int = 0

    @property
    def sent_bytes(self) -> int:
        """Size of the mask's message, to within a hundred bytes."""
        forms = [self.rle, self.png, self.bits, self.low_res_logits]
        rings = [ring for each in self.polygons or () for ring in (each.exterior, *each.holes)]
        return (
            MASK_OVERHEAD
            + sum(len(form) for form in forms if form is not None)
            + sum(4 * ring.size + RING_OVERHEAD for ring in rings)
        )


class ScoredLogits(Protocol):
    """The candidate masks of one prompt, best first."""

    @property
    def logits(self) -> Floats: ...  # [M, L, L]
    @property
    def predicted_iou(self) -> Floats: ...  # [M]
    @property
    def stability(self) -> Floats: ...  # [M]
    @property
    def order(self) -> Ints: ...  # [M]


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


def expected_bytes(prompts: Sequence[Prompt], output: Output, size: Size, low_res: int) -> int:
    """Return the part of an answer's size that does not depend on the masks: bits and logits.

    Args:
        prompts: That the answer is for.
        output: The forms to write.
        size: Of the source image.
        low_res: Side of the model's low-res logits.
    """
    most = min(output.max_masks or CANDIDATES, CANDIDATES)
    masks = sum(most if prompt.multimask else 1 for prompt in prompts)
    return masks * known_bytes(output, size, low_res)


def known_bytes(output: Output, size: Size, low_res: int) -> int:
    """Return the part of one mask's size that does not depend on the mask."""
    bits = size.height * ((size.width + 7) // 8) if output.bits else 0
    logits = 2 * low_res * low_res if output.low_res_logits else 0
    return bits + logits


def write_masks(
    candidates: ScoredLogits, size: Size, frame: Frame, output: Output, answer_size: AnswerSize
) -> list[MaskAnswer]:
    """Write as many candidates as are asked for, best first. Arguments as of `write_mask`.

    Raises:
        InvalidInput: The answer has grown over its limit.
    """
    masks: list[MaskAnswer] = []
    scored = zip(
        candidates.logits,
        candidates.predicted_iou,
        candidates.stability,
        candidates.order,
        strict=True,
    )
    for logits, iou, stability, candidate in islice(scored, output.max_masks or None):
        answer_size.check()
        mask = write_mask(logits, (float(iou), float(stability)), size, frame, output)
        answer_size.add(mask.sent_bytes)
        masks.append(replace(mask, candidate=int(candidate)))

    return masks


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
    mask = write_runs(outline(logits, size, frame), scores, output)
    if not output.low_res_logits:
        return mask
    return replace(mask, low_res_logits=logits.astype("<f2").tobytes())


def write_runs(mask: runs.Runs, scores: tuple[float, float], output: Output) -> MaskAnswer:
    """Write one mask as `write_mask` does, without logits."""
    return MaskAnswer(
        predicted_iou=scores[0],
        stability_score=scores[1],
        area=runs.area(mask),
        box=runs.box(mask),
        rle=encode_rle(mask) if output.rle else None,
        png=encode_png(mask) if output.png else None,
        polygons=polygons(mask, output.polygon_tolerance) if output.polygons else None,
        bits=runs.bits(mask).tobytes() if output.bits else None,
        low_res_logits=None,
    )
