"""What is left to annotate beside the regions that a person has accepted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samserve.core import runs
from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.fill import fill
from samserve.core.geometry import Size
from samserve.core.rle import read_rle
from samserve.core.run_sets import intersection, union
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
        InvalidInput: A region is damaged or of another size; the error names the field.
    """
    return union([_read(region, index, size) for index, region in enumerate(regions)], size)


def _read(region: Region, index: int, size: Size) -> runs.Runs:
    field = f"propose.accepted[{index}]"
    try:
        if region.rle is None:
            return union([fill(rings, size) for rings in region.rings], size)
        counts, height, width = region.rle
        if (width, height) != (size.width, size.height):
            raise ValueError(
                f"{width} x {height} pixels; the image has {size.width} x {size.height}"
            )
        return read_rle(counts, height, width)
    except ValueError as problem:
        raise InvalidInput(field, f"{field}: {problem}") from problem


def proposals(
    records: Sequence[Record], accepted: runs.Runs, sureness: Sureness
) -> list[tuple[Record, bool]]:
    """Return each region that is left once, with whether it is sure; sure ones first.

    Among sure and among unsure ones the better ones come first: by predicted IoU times stability,
    as everywhere. A region is left out if accepted regions and those before it cover most of it.

    Args:
        records: The masks found, one a point.
        accepted: Pixels that a person has accepted.
        sureness: When a region is sure.
    """
    order = sorted(records, key=lambda record: -record.predicted_iou * record.stability)
    sure = [record for record in order if sureness.is_sure(record)]
    unsure = [record for record in order if not sureness.is_sure(record)]

    covered = accepted
    kept: list[tuple[Record, bool]] = []
    for record in (*sure, *unsure):
        common = runs.area(intersection(record.mask, covered))
        if common > MOST_COVERED * runs.area(record.mask):
            continue
        covered = union([covered, record.mask], Size(covered.width, covered.height))
        kept.append((record, sureness.is_sure(record)))

    return kept
