"""What is left to annotate beside the regions that a person has accepted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samserve.core import runs
from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.fill import check_crossings, count_crossings, fill
from samserve.core.geometry import Size
from samserve.core.limits import MAX_ACCEPTED_CROSSINGS
from samserve.core.rle import read_rle
from samserve.core.run_sets import union
from samserve.decoder.sweep.records import Record

PLAUSIBLE_IOU, PLAUSIBLE_STABILITY = 0.5, 0.6  # default thresholds of what is proposed at all
MOST_COVERED = 0.5  # share of a region that accepted and better regions may cover


@dataclass(frozen=True, slots=True)
class Sureness:
    """When a region may be accepted unseen.

    Attributes:
        pred_iou_thresh: Its predicted IoU is over this,
        stability_score_thresh: its stability score is at least this,
        disagreement_thresh: and its candidates disagree by this at most.
    """

    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    disagreement_thresh: float = 0.5

    def is_sure(self, record: Record) -> bool:
        """Return whether a record is sure; without a doubt it is not."""
        return (
            record.predicted_iou > self.pred_iou_thresh
            and record.stability >= self.stability_score_thresh
            and record.doubt is not None
            and record.doubt.disagreement <= self.disagreement_thresh
        )


@dataclass(frozen=True, slots=True)
class Region:
    """An accepted region, as its caller sent it.

    Attributes:
        rle: (counts, height, width), or None.
        rings: The exterior and the holes of each polygon, [N, 2] each.
    """

    rle: tuple[bytes, int, int] | None
    rings: tuple[tuple[Floats, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ProposalOptions:
    """What to propose.

    Attributes:
        accepted: Regions as run lengths or polygons, read once the image's size is known.
        sureness: When a region is sure.
    """

    accepted: tuple[Region, ...] = ()
    sureness: Sureness = Sureness()


def check_sureness(sureness: Sureness) -> None:
    """Check the thresholds.

    Raises:
        InvalidInput: One is not from 0 to 1; the error names the field.
    """
    for name in ("pred_iou_thresh", "stability_score_thresh", "disagreement_thresh"):
        value = getattr(sureness, name)
        if not 0 <= value <= 1:
            field = f"propose.sure_{name}"
            raise InvalidInput(field, f"invalid {field} {value:g}: expected a number from 0 to 1")


def read_regions(regions: Sequence[Region], size: Size) -> runs.Runs:
    """Return the union of the accepted regions.

    Raises:
        InvalidInput: A region is damaged, of another size, or too long; the error names the field.
    """
    crossings = 0
    masks = []
    for index, region in enumerate(regions):
        crossings += sum(count_crossings(rings, size) for rings in region.rings)
        masks.append(_read(region, crossings, f"propose.accepted[{index}]", size))
    return union(masks, size)


def _read(region: Region, crossings: int, field: str, size: Size) -> runs.Runs:
    """Return a region's mask; `crossings` are those of it and the regions before it."""
    try:
        if region.rle is None:
            check_crossings(crossings, MAX_ACCEPTED_CROSSINGS)
            return union([fill(rings, size) for rings in region.rings], size)
        counts, height, width = region.rle
        if (width, height) != (size.width, size.height):
            raise ValueError(
                f"{width} x {height} pixels; the image has {size.width} x {size.height}"
            )
        return read_rle(counts, height, width)
    except ValueError as problem:
        raise InvalidInput(field, f"{field}: {problem}") from problem


class Proposals:
    """Chooses what to propose: each region that is left once. A region is considered at a time."""

    def __init__(self, accepted: runs.Runs) -> None:
        """Begin with the pixels that a person has accepted."""
        # One number a pixel, column by column as runs are. Runs of thousands of regions would take
        # ever longer to compare.
        self._covered = np.zeros(accepted.height * accepted.width, np.uint8)
        self._cover(accepted)
        self.kept: list[Record] = []

    def consider(self, records: Sequence[Record]) -> None:
        """Keep the records that accepted regions and those before them do not mostly cover."""
        for record in records:
            # The covered pixels of each foreground run.
            sums = np.add.reduceat(self._covered, record.mask.changes, dtype=np.int64)
            if sums[::2].sum() <= MOST_COVERED * runs.area(record.mask):
                self._cover(record.mask)
                self.kept.append(record)

    def _cover(self, mask: runs.Runs) -> None:
        ends = np.append(mask.changes, len(self._covered))[1::2]
        for start, end in zip(mask.changes[::2].tolist(), ends.tolist(), strict=False):
            self._covered[start:end] = 1


def in_order(records: Sequence[Record], sureness: Sureness) -> list[Record]:
    """Return the records in the order of proposals: sure ones first.

    Among sure and among unsure ones the better ones come first: by predicted IoU times stability,
    as everywhere.
    """
    return sorted(
        records,
        key=lambda each: (not sureness.is_sure(each), -each.predicted_iou * each.stability),
    )
