"""The masks that a point of the grid gives, judged before they are scaled to the image's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from samserve.core import runs
from samserve.core.arrays import Bools, Floats
from samserve.core.crop import Crop
from samserve.core.geometry import Frame, Size, fit
from samserve.core.run_sets import place
from samserve.decoder.masks.kernel import scale_bilinear
from samserve.decoder.masks.outline import outline
from samserve.decoder.prompt import FOREGROUND, Prompt
from samserve.decoder.sam.mask_decoder import Candidates, MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sweep.boxes import near_crop_edge
from samserve.decoder.sweep.doubt import doubt
from samserve.decoder.sweep.options import SweepOptions
from samserve.decoder.sweep.records import Record, box_of

FINER = 4  # stability is counted on so many times finer logits a side: those of SAM's frame
CLEARLY = 0.1  # stability on low-res logits is this near to that on finer ones
MARGIN = 2  # rows and columns of logits around the ones that count, for scaling

Pause = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One point of the grid.

    Attributes:
        image: The crop, prepared.
        crop: Part of the whole image.
        point: [2], (x, y) in pixels of the crop.
        size: Of the whole image.
    """

    image: ReadyImage
    crop: Crop
    point: Floats
    size: Size


def propose(
    decoder: MaskDecoder, question: Question, options: SweepOptions, pause: Pause
) -> list[Record]:
    """Decode a point and return the best mask that passes the thresholds, with its doubt.

    Arguments as of `ask`.
    """
    frame = decoder.bundle.mask_frame
    (candidates,) = _decode(decoder, question, options, pause)
    for index in range(len(candidates.logits)):  # the best first
        record = judge(candidates, index, question, frame, options)
        if record is not None:
            size, threshold = question.crop.size, options.mask_threshold
            found = doubt(candidates, index, size, frame, threshold)
            ask_at = found.ask + np.array([question.crop.x0, question.crop.y0], np.float32)
            return [replace(record, doubt=replace(found, ask=ask_at))]
    return []


def ask(
    decoder: MaskDecoder, question: Question, options: SweepOptions, pause: Pause
) -> list[Record]:
    """Decode a point and return the masks that pass the thresholds, in the decoder's order.

    Args:
        decoder: Of the model.
        question: The point.
        options: The thresholds.
        pause: Called between small pieces of the work; returns when it may go on.
    """
    frame = decoder.bundle.mask_frame
    judged = [
        judge(candidates, index, question, frame, options)
        for candidates in _decode(decoder, question, options, pause)
        for index in np.argsort(candidates.order, kind="stable")
    ]
    return [record for record in judged if record is not None]


def _decode(
    decoder: MaskDecoder, question: Question, options: SweepOptions, pause: Pause
) -> Iterator[Candidates]:
    prompt = Prompt(
        points=question.point[None],
        labels=np.array([FOREGROUND], np.float32),
        box=None,
        mask_input=None,
        multimask=options.multimask_output,
    )
    least_iou = options.pred_iou_thresh or -np.inf
    image = question.image
    if not options.use_m2m:
        yield decoder.decode_patiently(image, prompt, pause, least_iou)
        return

    # Source: SAM 2, SAM2AutomaticMaskGenerator.refine_with_m2m.
    first = decoder.decode_patiently(image, prompt, pause, -np.inf)
    for index in np.argsort(first.order):
        refined = Prompt(prompt.points, prompt.labels, None, first.logits[index], multimask=False)
        yield decoder.decode_patiently(image, refined, pause, least_iou)


def judge(
    candidates: Candidates, index: int, question: Question, frame: Frame, options: SweepOptions
) -> Record | None:
    """Return a candidate at the image's size, or None if it does not pass the thresholds.

    Args:
        candidates: Of a point.
        index: Of the candidate.
        question: The point.
        frame: The model's mask frame.
        options: The thresholds.
    """
    iou = float(candidates.predicted_iou[index])
    if options.pred_iou_thresh > 0 and not iou > options.pred_iou_thresh:
        return None

    crop = question.crop
    logits = candidates.logits[index] - np.float32(options.mask_threshold)
    stability = stability_over(logits, crop.size, frame, options)
    if stability is None:
        return None

    mask = place(outline(logits, crop.size, frame), crop, question.size)
    box = box_of(mask)
    if not len(mask.changes) or near_crop_edge(box[None], crop, question.size)[0]:
        return None
    return Record(
        mask=mask,
        box=box,
        point=question.point + np.array([crop.x0, crop.y0], np.float32),
        crop=crop,
        number=int(candidates.order[index]),
        predicted_iou=iou,
        stability=stability,
    )


def stability_over(logits: Floats, size: Size, frame: Frame, options: SweepOptions) -> float | None:
    """Return the stability score, or None if it is under the threshold.

    SAM counts pixels of the source image. Low-res logits give another score, by up to 0.05 for a
    small mask, so they only decide what is clearly unstable.

    Args:
        logits: [L, L], less the mask's threshold.
        size: Of the source image.
        frame: The model's mask frame.
        options: The threshold, and the offset of both cuts.
    """
    least, offset = options.stability_score_thresh, options.stability_score_offset
    inner = fit(size, frame)
    per_logit = len(logits) / frame.side
    height, width = inner.height * per_logit, inner.width * per_logit
    shown = logits[: int(np.ceil(height)), : int(np.ceil(width))]
    if _ratio(shown, offset) < least - CLEARLY:
        return None

    if max(size.width, size.height) < FINER * len(logits):
        certain, possible = (
            runs.area(outline(logits - np.float32(cut), size, frame)) for cut in (offset, -offset)
        )
        stability = certain / possible if possible else 0.0
    else:
        stability = _ratio(_finer(logits, shown > -offset, height, width), offset)
    return stability if stability >= least else None


def _finer(logits: Floats, possible: Bools, height: float, width: float) -> Floats:
    """Return the part of the logits that may be on the mask, finer.

    The source image has at least as many pixels there, so the share of each is the same.

    Args:
        logits: [L, L].
        possible: [rows, columns] of the logits on the image, whether they may be on the mask.
        height: Of the image, in logits; what is below is padding.
        width: Likewise.
    """
    rows, columns = _range(possible), _range(possible.T)
    finer = scale_bilinear(logits[rows, columns], FINER)
    return finer[
        : round(FINER * height) - FINER * rows.start, : round(FINER * width) - FINER * columns.start
    ]


def _ratio(logits: Floats, offset: float) -> float:
    possible = np.count_nonzero(logits > -offset)
    return np.count_nonzero(logits > offset) / possible if possible else 0.0


def _range(occupied: Bools) -> slice:
    """Return the rows from the first occupied one to the last, with the margin."""
    indices = np.flatnonzero(occupied.any(1))
    if not len(indices):
        return slice(0, 1)
    return slice(max(int(indices[0]) - MARGIN, 0), int(indices[-1]) + MARGIN + 1)
