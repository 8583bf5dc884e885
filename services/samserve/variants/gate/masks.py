"""The masks that the gate compares: the answers of the bundle's decoder to fixed prompts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from samserve.core.arrays import Bools, Halves
from samserve.core.embedding import Embedding
from samserve.core.family import TRUNK
from samserve.core.geometry import Size, fit
from samserve.core.runs import dense
from samserve.decoder.masks.outline import outline
from samserve.decoder.prompt import Prompt
from samserve.decoder.sam.mask_decoder import MaskDecoder

Masks = list[Bools]
Tensors = dict[str, Halves]

GRID = 4  # points along each side
BOXES = (  # left, top, right, bottom as shares of the image
    (0.05, 0.05, 0.5, 0.5),
    (0.5, 0.1, 0.9, 0.6),
    (0.1, 0.5, 0.6, 0.95),
    (0.3, 0.3, 0.7, 0.7),
    (0.0, 0.0, 1.0, 1.0),
)
LEAST_CELLS = 20  # cells of the low-res logits; smaller masks do not count


@dataclass(frozen=True, slots=True)
class Overlaps:
    """How well the masks of two embeddings agree.

    Attributes:
        ious: Of the masks that count, prompt by prompt.
        too_small: Number of masks that do not count.
    """

    ious: list[float]
    too_small: int


def prompts(size: Size) -> list[Prompt]:
    """Return a grid of clicks with three candidates each, and boxes with one mask each."""
    places = (np.arange(GRID) + 0.5) / GRID
    clicks = np.stack(np.meshgrid(places, places), -1).reshape(-1, 1, 2) * (size.width, size.height)
    boxes = np.array(BOXES) * (size.width, size.height, size.width, size.height)

    foreground = np.ones(1, np.float32)
    no_points = np.zeros((0, 2), np.float32)
    no_labels = np.zeros(0, np.float32)
    return [
        *(
            Prompt(click.astype(np.float32), foreground, None, None, multimask=True)
            for click in clicks
        ),
        *(
            Prompt(no_points, no_labels, box.astype(np.float32), None, multimask=False)
            for box in boxes
        ),
    ]


def decode_masks(decoder: MaskDecoder, tensors: Tensors, size: Size) -> list[Masks]:
    """Return the candidates' masks of each prompt, at the source's size."""
    bundle = decoder.bundle
    embedding = {name: tensor for name, tensor in tensors.items() if name != TRUNK}
    ready = decoder.prepare(Embedding(bundle.model_version, size, embedding))
    answers = decoder.decode(ready, prompts(size))
    return [
        [dense(outline(logits, size, bundle.mask_frame)) for logits in answer.logits]
        for answer in answers
    ]


def overlaps(decoder: MaskDecoder, reference: Tensors, candidate: Tensors, size: Size) -> Overlaps:
    """Compare the masks of two embeddings of one image.

    Candidates come best first, so two with nearly the same score may swap. That changes no mask:
    the order with the best agreement counts. Pairs in which both masks cover fewer than LEAST_CELLS
    cells are left out, because one cell more or less, the decoder's resolution, would push their
    IoU below 0.95.

    Args:
        decoder: Of the bundle.
        reference: The exported encoder's embedding.
        candidate: The variant's embedding.
        size: Of the source image.
    """
    smallest = LEAST_CELLS * _cell_area(decoder, size)
    expected = decode_masks(decoder, reference, size)
    actual = decode_masks(decoder, candidate, size)

    ious: list[float] = []
    too_small = 0
    for wanted, got in zip(expected, actual, strict=True):
        table = [[iou(mask, other) for other in got] for mask in wanted]
        for i, j in enumerate(_best_order(table)):
            if max(wanted[i].sum(), got[j].sum()) < smallest:
                too_small += 1
            else:
                ious.append(table[i][j])
    return Overlaps(ious, too_small)


def iou(mask: Bools, other: Bools) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = np.count_nonzero(mask | other)
    return float(np.count_nonzero(mask & other) / union) if union else 1.0


def _best_order(table: list[list[float]]) -> tuple[int, ...]:
    """Return the order of columns that maximises the sum along the diagonal."""
    return max(
        permutations(range(len(table))),
        key=lambda order: sum(row[column] for row, column in zip(table, order, strict=True)),
    )


def _cell_area(decoder: MaskDecoder, size: Size) -> float:
    """Area of a cell of the low-res logits, in source pixels."""
    frame = decoder.bundle.frame
    return size.pixels / fit(size, frame).pixels * (frame.side / decoder.bundle.low_res) ** 2
