"""The masks that the gate compares: what the bundle's own decoder answers to fixed prompts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from samserve.core.embedding import Embedding
from samserve.core.geometry import Size, fit
from samserve.core.runs import dense
from samserve.decoder.masks.outline import outline
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder

Masks = list[NDArray[np.bool_]]
Tensors = dict[str, NDArray[np.float16]]

GRID = 4  # points along each side
BOXES = (
    (0.05, 0.05, 0.5, 0.5),
    (0.5, 0.1, 0.9, 0.6),
    (0.1, 0.5, 0.6, 0.95),
    (0.3, 0.3, 0.7, 0.7),
    (0.0, 0.0, 1.0, 1.0),
)
LEAST_CELLS = 20  # cells of the low-res logits that a mask must cover to count


@dataclass(frozen=True, slots=True)
class Overlaps:
    """ious: of the masks that count, prompt by prompt; too_small: how many do not."""

    ious: list[float]
    too_small: int


def prompts(size: Size) -> list[Prompt]:
    """A grid of clicks that ask for three candidates, and boxes that ask for one mask."""
    places = (np.arange(GRID) + 0.5) / GRID
    clicks = np.stack(np.meshgrid(places, places), -1).reshape(-1, 1, 2) * (size.width, size.height)
    boxes = np.array(BOXES) * (size.width, size.height, size.width, size.height)
    one, none = np.ones(1, np.float32), np.zeros((0, 2), np.float32)
    return [
        *(Prompt(click.astype(np.float32), one, None, None, multimask=True) for click in clicks),
        *(Prompt(none, one[:0], box.astype(np.float32), None, multimask=False) for box in boxes),
    ]


def masks_of(decoder: MaskDecoder, tensors: Tensors, size: Size) -> list[Masks]:
    """Of each prompt the candidates' masks at the source's size."""
    bundle = decoder.bundle
    ready = decoder.prepare(Embedding(bundle.model_version, size, tensors))
    answers = decoder.decode(ready, prompts(size))
    return [
        [dense(outline(each, size, bundle.mask_frame)) for each in answer.logits]
        for answer in answers
    ]


def overlaps(decoder: MaskDecoder, reference: Tensors, candidate: Tensors, size: Size) -> Overlaps:
    """How well the candidates of each prompt agree.

    They come best first, and two of nearly the same score may change places, which changes no mask: of all orders the
    one that agrees best counts. A pair of masks that both cover fewer than LEAST_CELLS cells is left out: one cell
    more or less, the decoder's own pixel, would bring it below an IoU of 0.95.
    """
    least = LEAST_CELLS * _cell(decoder, size)
    ious: list[float] = []
    too_small = 0
    for wanted, got in zip(
        masks_of(decoder, reference, size), masks_of(decoder, candidate, size), strict=True
    ):
        table = [[iou(one, other) for other in got] for one in wanted]
        every = range(len(got))
        order = max(permutations(every), key=lambda order: sum(table[i][order[i]] for i in every))
        for i in every:
            if max(wanted[i].sum(), got[order[i]].sum()) < least:
                too_small += 1
            else:
                ious.append(table[i][order[i]])
    return Overlaps(ious, too_small)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Two empty masks agree."""
    either = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / either) if either else 1.0


def _cell(decoder: MaskDecoder, size: Size) -> float:
    """Source pixels in a cell of the low-res logits."""
    frame = decoder.bundle.frame
    return size.pixels / fit(size, frame).pixels * (frame.side / decoder.bundle.low_res) ** 2
