"""Segmenting everything: the requests, and how their answers are read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from samserve.client.answer import Mask, Polygon, read_mask
from samserve.core.arrays import Array, Bools
from samserve.core.cache_status import CacheStatus
from samserve.core.errors import InvalidInput, Unavailable
from samserve.core.geometry import Size
from samserve.core.rle import encode_rle
from samserve.core.runs import Runs, runs_of
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.convert import cache_status_from_proto

# A region that a person has accepted: a mask of an answer, its polygons, pixels bool [H, W], or
# the runs of a mask.
Region: TypeAlias = Mask | Sequence[Polygon] | Bools | Runs
OnProgress: TypeAlias = Callable[[int, int], None]  # points done, points in all


@dataclass(frozen=True, slots=True)
class GridOptions:
    """Where to ask and what to keep: SAM's and SAM 2's parameters; None for SAM's default.

    Attributes:
        points_per_side: points of the grid along each side, at most 64; 32.
        points_per_batch: points between two calls of `on_progress`, at most 256; 64.
        pred_iou_thresh: masks with a predicted IoU up to this are dropped; 0.88.
        stability_score_thresh: masks with a lower stability score are dropped; 0.95.
        stability_score_offset: logits between the threshold and the score's two cuts; 1.
        mask_threshold: logits above this are the mask; 0.
        box_nms_thresh: of two masks whose boxes overlap more, the better one is kept; 0.7.
        crop_n_layers: layers of crops, at most 2; 0.
        crop_nms_thresh: likewise for masks of different crops; 0.7.
        crop_overlap_ratio: overlap of the first layer's crops, of the image's short side; 512/1500.
        crop_n_points_downscale_factor: each layer has so many times fewer points a side; 1.
        min_mask_region_area: smaller holes are filled, smaller islands removed, in pixels; 0.
        multimask_output: whether each point gives three masks; True.
        use_m2m: whether each mask is refined by a second pass.
        point_grids: grids of the layers, [N, 2] each from 0 to 1, instead of points_per_side.
    """

    points_per_side: int | None = None
    points_per_batch: int | None = None
    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    stability_score_offset: float | None = None
    mask_threshold: float | None = None
    box_nms_thresh: float | None = None
    crop_n_layers: int | None = None
    crop_nms_thresh: float | None = None
    crop_overlap_ratio: float | None = None
    crop_n_points_downscale_factor: int | None = None
    min_mask_region_area: int | None = None
    multimask_output: bool | None = None
    use_m2m: bool = False
    point_grids: Sequence[Array] = ()


@dataclass(frozen=True, slots=True)
class Sureness:
    """When a proposed region may be accepted unseen; None for the service's default.

    Attributes:
        pred_iou_thresh: its predicted IoU is over this; 0.88,
        stability_score_thresh: its stability score is at least this; 0.95,
        disagreement_thresh: and its candidates disagree by this at most; 0.5.
    """

    pred_iou_thresh: float | None = None
    stability_score_thresh: float | None = None
    disagreement_thresh: float | None = None


COUNTS = {
    *("points_per_side", "points_per_batch", "crop_n_layers"),
    *("crop_n_points_downscale_factor", "min_mask_region_area"),
}
DEFAULT_GRID, DEFAULT_SURENESS = GridOptions(), Sureness()


@dataclass(frozen=True, slots=True)
class Record:
    """A mask that was found.

    Attributes:
        mask: at the image's size.
        point: x, y that found it, in pixels of the oriented image.
        crop_box: x0, y0, x1, y1 of the crop that it was found in; the right and bottom exclusive.
        sure: of a proposal, whether it may be accepted unseen.
        disagreement: of a proposal, how much the point's candidates differ, 0 to 1.
        ask: of a proposal that is not sure, x, y where a click would help most.
    """

    mask: Mask
    point: tuple[float, float]
    crop_box: tuple[int, int, int, int]
    sure: bool = False
    disagreement: float = 0.0
    ask: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Everything:
    """The masks of one image.

    Attributes:
        image_id: SHA-256 of the encoded bytes.
        model_version: the version of the model that embedded it.
        size: width and height of the oriented image.
        cache: whether the embedding was a cache hit.
        timings_ms: milliseconds by stage.
        records: the masks in SAM's order; of proposals the sure ones first.
        found: how many masks were found, more than were sent if `max_masks` is less.
    """

    image_id: str
    model_version: str
    size: Size
    cache: CacheStatus
    timings_ms: dict[str, float]
    records: list[Record]
    found: int


def write_options(options: GridOptions) -> pb.SweepOptions:
    """Convert to the proto. Raises InvalidInput if a value has the wrong type."""
    grids = [_write_grid(grid, index) for index, grid in enumerate(options.point_grids)]
    return pb.SweepOptions(**_given(options, "options.", "point_grids"), point_grids=grids)


def write_proposals(accepted: Sequence[Region], sureness: Sureness) -> pb.ProposalOptions:
    """Convert to the proto. Raises InvalidInput."""
    return pb.ProposalOptions(
        accepted=[_write_region(region, index) for index, region in enumerate(accepted)],
        **{f"sure_{name}": value for name, value in _given(sureness, "sureness.").items()},
    )


def _given(options: GridOptions | Sureness, prefix: str, *without: str) -> dict[str, Any]:
    """Return the options that are not None."""
    given = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.name not in without
    }
    for name, value in given.items():
        if value is not None and not isinstance(value, (bool, int, float, np.number, np.bool_)):
            raise InvalidInput(
                prefix + name, f"{prefix}{name}: {value!r:.40} is a {type(value).__name__}"
            )
        if value is None or name not in COUNTS:
            continue
        if not (0 <= value < 2**31 and value == int(value)):
            raise InvalidInput(
                prefix + name, f"invalid {prefix}{name} {value}: expected a whole number, 0 or more"
            )
    return {
        name: int(value) if name in COUNTS else value
        for name, value in given.items()
        if value is not None
    }


def _write_grid(grid: Array, index: int) -> pb.SweepOptions.Grid:
    points = np.asarray(grid, np.float32)
    if points.ndim != 2 or points.shape[1] != 2:
        field = f"options.point_grids[{index}]"
        raise InvalidInput(field, f"{field}: an array {list(points.shape)}; expected [N, 2]")
    return pb.SweepOptions.Grid(xy=points.ravel())


def _write_region(region: Any, index: int) -> pb.Region:
    if isinstance(region, Mask):
        size, counts = region.size, region.rle
    elif isinstance(region, Runs):
        size, counts = Size(region.width, region.height), encode_rle(region)
    elif isinstance(region, np.ndarray) and region.dtype == np.bool_ and region.ndim == 2:
        size, counts = Size(region.shape[1], region.shape[0]), encode_rle(runs_of(region))
    elif isinstance(region, Sequence) and all(isinstance(each, Polygon) for each in region):
        polygons = [_write_polygon(polygon) for polygon in region]
        return pb.Region(polygons=pb.Polygons(polygons=polygons))
    else:
        field = f"accepted[{index}]"
        raise InvalidInput(
            field,
            f"{field} is a {type(region).__name__}; expected a Mask with RLE, polygons, or an "
            "array bool [height, width]",
        )
    return pb.Region(rle=types.Rle(height=size.height, width=size.width, counts=counts))


def _write_polygon(polygon: Polygon) -> pb.Polygon:
    return pb.Polygon(
        exterior=pb.Ring(xy=polygon.exterior.ravel()),
        holes=[pb.Ring(xy=hole.ravel()) for hole in polygon.holes],
    )


class EverythingReader:
    """Puts the messages of one answer together."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        """Create a reader; `on_progress` is called with the points done, and those in all."""
        self._on_progress = on_progress
        self._started = pb.GenerateMasksResponse.Started()
        self._finished: pb.GenerateMasksResponse.Finished | None = None
        self._records: list[Record] = []
        self._size = Size(0, 0)

    def read(self, message: pb.GenerateMasksResponse) -> None:
        """Read the next message."""
        match message.WhichOneof("message"):
            case "started":
                self._started = message.started
                self._size = Size(self._started.image.width, self._started.image.height)
                self._report(0)
            case "progress":
                self._report(message.progress.points)
            case "record":
                self._records.append(_read_record(message.record, self._size))
            case "finished":
                self._finished = message.finished

    def _report(self, points: int) -> None:
        if self._on_progress is not None:
            self._on_progress(points, self._started.points)

    def everything(self) -> Everything:
        """Return the answer once all messages are read. Raises Unavailable if it has no end."""
        if self._finished is None:
            raise Unavailable("the decoder's answer ended early")
        return Everything(
            image_id=self._started.image.image_id,
            model_version=self._started.image.model_version,
            size=self._size,
            cache=cache_status_from_proto(self._started.cache),
            timings_ms={time.stage: time.milliseconds for time in self._finished.timings},
            records=self._records,
            found=self._finished.masks,
        )


def _read_record(record: pb.GenerateMasksResponse.Record, size: Size) -> Record:
    box = record.crop_box
    return Record(
        mask=read_mask(record.mask, size),
        point=(record.point.x, record.point.y),
        crop_box=(int(box.x0), int(box.y0), int(box.x1), int(box.y1)),
        sure=record.sure,
        disagreement=record.disagreement,
        ask=(record.ask.x, record.ask.y) if record.HasField("ask") else None,
    )
