"""Translates the messages of GenerateMasks. Pure."""

from __future__ import annotations

import numpy as np

from samserve.core.arrays import Floats
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.limits import (
    MAX_ACCEPTED,
    MAX_ACCEPTED_NUMBERS,
    MAX_CROP_LAYERS,
    MAX_GRID_POINTS,
    RequestLimits,
    check_count,
)
from samserve.decoder.messages import mask_to_proto, read_image, read_output
from samserve.decoder.sweep.options import SweepOptions
from samserve.decoder.sweep.proposals import (
    PLAUSIBLE_IOU,
    PLAUSIBLE_STABILITY,
    ProposalOptions,
    Region,
    Sureness,
)
from samserve.decoder.sweep.sweeper import (
    Event,
    Finished,
    Kept,
    Progress,
    Started,
    SweepRequest,
)
from samserve.infra.stages import StageClock
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.convert import cache_status_to_proto, image_ref, stage_times

PROPOSALS = {
    "pred_iou_thresh": PLAUSIBLE_IOU,
    "stability_score_thresh": PLAUSIBLE_STABILITY,
}


def read_sweep(request: pb.GenerateMasksRequest, limits: RequestLimits) -> SweepRequest:
    """Return what to segment, checked for its size only. Raises InvalidInput."""
    proposes = request.HasField("propose")
    return SweepRequest(
        image=read_image(request),
        options=_options(request.options, PROPOSALS if proposes else {}),
        output=read_output(request.output, limits),
        propose=_proposals(request.propose) if proposes else None,
    )


def _options(options: pb.SweepOptions, defaults: dict[str, float]) -> SweepOptions:
    """Return the options: those given, else the defaults, else SAM's."""
    given = {
        field.name: value for field, value in options.ListFields() if field.name != "point_grids"
    }
    field = "options.point_grids"
    check_count(len(options.point_grids), 1 + MAX_CROP_LAYERS, field, "grids")
    grids = tuple(
        _pairs(grid.xy, f"{field}[{index}].xy", MAX_GRID_POINTS)
        for index, grid in enumerate(options.point_grids)
    )
    return SweepOptions(**(defaults | given), point_grids=grids)


def _proposals(options: pb.ProposalOptions) -> ProposalOptions:
    check_count(len(options.accepted), MAX_ACCEPTED, "propose.accepted", "regions")
    numbers = sum(map(_numbers, options.accepted))
    check_count(numbers, MAX_ACCEPTED_NUMBERS, "propose.accepted", "bytes and coordinates")

    sureness = {
        field.name.removeprefix("sure_"): value
        for field, value in options.ListFields()
        if field.name != "accepted"
    }
    return ProposalOptions(
        accepted=tuple(_region(region, index) for index, region in enumerate(options.accepted)),
        sureness=Sureness(**sureness),
    )


def _numbers(region: pb.Region) -> int:
    """Return the bytes of a region's run lengths, or the coordinates of its polygons."""
    return len(region.rle.counts) + sum(
        len(ring.xy)
        for polygon in region.polygons.polygons
        for ring in (polygon.exterior, *polygon.holes)
    )


def _region(region: pb.Region, index: int) -> Region:
    field = f"propose.accepted[{index}]"
    form = region.WhichOneof("form")
    if form == "rle":
        return Region((region.rle.counts, region.rle.height, region.rle.width))
    if form is None:
        raise InvalidInput(field, f"{field} is empty; give rle or polygons")

    polygons = region.polygons.polygons
    return Region(
        rle=None,
        rings=tuple(
            tuple(
                _pairs(ring.xy, f"{field}.polygons", MAX_ACCEPTED_NUMBERS)
                for ring in (polygon.exterior, *polygon.holes)
            )
            for polygon in polygons
        ),
    )


def _pairs(numbers: object, field: str, most: int) -> Floats:
    """Return x0, y0, x1, y1... as [N, 2]."""
    values = np.array(numbers, np.float32)
    if len(values) % 2:
        raise InvalidInput(field, f"{field} has {len(values)} numbers; expected pairs of x and y")
    check_count(len(values) // 2, most, field, "points")
    if not np.isfinite(values).all():
        raise InvalidInput(field, f"{field} has a value that is not a finite number")
    return values.reshape(-1, 2)


class SweepWriter:
    """Turns the events of one sweep into messages."""

    def __init__(self, clock: StageClock) -> None:
        """Create a writer; the clock has the stages of the sweep."""
        self._clock = clock
        self._size = Size(0, 0)

    def message(self, event: Event) -> pb.GenerateMasksResponse:
        """Return the message of an event; the start comes first."""
        match event:
            case Started():
                self._size = event.image.ready.size
                return pb.GenerateMasksResponse(started=_started(event))
            case Progress():
                progress = pb.GenerateMasksResponse.Progress(crops=event.crops, points=event.points)
                return pb.GenerateMasksResponse(progress=progress)
            case Kept():
                return pb.GenerateMasksResponse(record=_record(event, self._size))
            case Finished():
                finished = pb.GenerateMasksResponse.Finished(
                    masks=event.masks, timings=stage_times(self._clock.milliseconds)
                )
                return pb.GenerateMasksResponse(finished=finished)


def _started(event: Started) -> pb.GenerateMasksResponse.Started:
    return pb.GenerateMasksResponse.Started(
        image=image_ref(event.image.image_id, event.image.ready),
        cache=cache_status_to_proto(event.image.status),
        crops=event.crops,
        points=event.points,
    )


def _record(kept: Kept, size: Size) -> pb.GenerateMasksResponse.Record:
    record, crop = kept.record, kept.record.crop
    message = pb.GenerateMasksResponse.Record(
        mask=mask_to_proto(kept.mask, size),
        point=_point(record.point),
        crop_box=types.Box(x0=crop.x0, y0=crop.y0, x1=crop.x1, y1=crop.y1),
        sure=kept.sure,
    )
    if record.doubt is not None:
        message.disagreement = record.doubt.disagreement
        if not kept.sure:
            message.ask.CopyFrom(_point(record.doubt.ask))
    return message


def _point(point: Floats) -> types.Point:
    return types.Point(x=point[0], y=point[1], label=types.POINT_LABEL_FOREGROUND)
