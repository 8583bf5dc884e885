"""The masks of a sweep: compared, cleaned and kept once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from samserve.core import runs
from samserve.core.arrays import Array, Floats, Ints
from samserve.core.components import fill_holes, remove_islands
from samserve.core.crop import Crop
from samserve.decoder.sweep.boxes import suppress
from samserve.decoder.sweep.doubt import Doubt

OVERHEAD = 500  # bytes of a record beside its mask


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A mask that passed the thresholds.

    Attributes:
        mask: At the whole image's size.
        box: [4], x0, y0, x1, y1 in pixels, right and bottom exclusive.
        point: [2], (x, y) that found it, in pixels of the whole image.
        crop: Where it was found.
        number: Among the decoder's outputs for the point.
        predicted_iou: The model's estimate.
        stability: Stability score.
        changed: Whether small regions were removed.
        doubt: What is uncertain about it; None unless asked for.
    """

    mask: runs.Runs
    box: Ints
    point: Floats
    crop: Crop
    number: int
    predicted_iou: float
    stability: float
    changed: bool = False
    doubt: Doubt | None = None

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.mask.changes.nbytes + OVERHEAD


def box_of(mask: runs.Runs) -> Ints:
    """Return the tight box, [4]; zeros for an empty mask."""
    box = runs.box(mask)
    return np.array([box.x0, box.y0, box.x1, box.y1])


def best_of(records: Sequence[Record], scores: Array, threshold: float) -> list[Record]:
    """Return the records that no better one overlaps, the best first.

    Args:
        records: Any.
        scores: [N], the larger the better.
        threshold: IoU of the boxes, over which they overlap.
    """
    if not records:
        return []
    boxes = np.stack([each.box for each in records])
    return [records[index] for index in suppress(boxes, scores, threshold)]


def clean(record: Record, least: int) -> Record:
    """Return the record without holes and islands of less than `least` pixels."""
    mask = remove_islands(fill_holes(record.mask, least), least)
    if mask is record.mask:
        return record
    return replace(record, mask=mask, box=box_of(mask), changed=True)


def best_of_cleaned(records: Sequence[Record], threshold: float) -> list[Record]:
    """Return the records that no other one overlaps, after `clean`.

    Those that are as they were are the better ones. Source: SAM, postprocess_small_regions.
    """
    unchanged = np.array([not each.changed for each in records])
    return best_of(records, unchanged, threshold)


def without_repeats(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records without empty masks, and each mask once."""
    seen: set[bytes] = set()
    for record in records:
        changes = record.mask.changes
        if len(changes) and (key := changes.tobytes()) not in seen:
            seen.add(key)
            yield record
