"""Which masks of a sweep are kept: each region once, and bounded in memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samserve.core.errors import InvalidInput
from samserve.core.limits import MAX_SHORTLIST_BYTES
from samserve.decoder.sweep.options import SweepOptions
from samserve.decoder.sweep.records import Record, best_of


class Shortlist:
    """Collects the masks of one sweep, crop by crop."""

    def __init__(self, options: SweepOptions, most_bytes: int = MAX_SHORTLIST_BYTES) -> None:
        self._options = options
        self._most_bytes = most_bytes
        self._crop: list[Record] = []  # of the crop in progress
        self._settled: list[Record] = []  # of the crops before it
        self._bytes = 0

    def add(self, records: Sequence[Record]) -> None:
        """Add the masks of one point.

        Raises:
            InvalidInput: Too many masks pass the thresholds.
        """
        self._crop += records
        self._bytes += sum(record.nbytes for record in records)
        if self._bytes <= self._most_bytes:
            return

        # Drop now what `end_crop` would drop, but for rare chains of overlaps.
        self._crop = self._best_of_crop()
        self._count()
        if self._bytes > self._most_bytes / 2:
            raise _too_many(self._bytes, self._most_bytes)

    def end_crop(self) -> None:
        """Drop the repeated masks of the crop whose points have all been added."""
        self._settled += self._best_of_crop()
        self._crop = []
        self._count()

    def kept(self) -> list[Record]:
        """Return the masks of all crops: of one region the smallest crop's one.

        Source: SAM, SamAutomaticMaskGenerator._generate_masks.
        """
        if len({record.crop for record in self._settled}) < 2:
            return self._settled

        areas = np.array([record.crop.size.pixels for record in self._settled])
        return best_of(self._settled, 1 / areas, self._options.crop_nms_thresh)

    def _best_of_crop(self) -> list[Record]:
        scores = np.array([record.predicted_iou for record in self._crop])
        return best_of(self._crop, scores, self._options.box_nms_thresh)

    def _count(self) -> None:
        self._bytes = sum(record.nbytes for record in (*self._settled, *self._crop))


def _too_many(count: int, most: int) -> InvalidInput:
    field = "options.pred_iou_thresh"
    return InvalidInput(
        field,
        f"{field}: the masks over the thresholds take {count:,} bytes; the limit is {most:,}. "
        "Raise options.pred_iou_thresh or options.stability_score_thresh",
    )
