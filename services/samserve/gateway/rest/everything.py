"""Segmenting everything, or proposing what is left, as server-sent events: progress, then masks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi.responses import StreamingResponse
from pydantic import Field

from samserve.client import AsyncClient, CachedImage, Mask
from samserve.client.everything import Everything, GridOptions, OnProgress, Record, Sureness
from samserve.core.geometry import Size
from samserve.core.limits import (
    MAX_ACCEPTED,
    MAX_CROP_LAYERS,
    MAX_FORMATS,
    MAX_POINTS_PER_BATCH,
    MAX_POINTS_PER_SIDE,
    MAX_SWEEP_MASKS,
)
from samserve.gateway.problem import problem_of
from samserve.gateway.rest.answers import problem_json
from samserve.gateway.rest.masks import image_json, mask_json, wire_formats
from samserve.gateway.rest.models import Format, Name, Number, Strict

Event = tuple[str, Any]

Share = Annotated[Number, Field(ge=0, le=1)]
OUTPUT = {"formats", "polygon_tolerance", "max_masks", "model"}  # what is not an option
PROPOSING = {
    *("accepted", "sure_pred_iou_thresh"),
    *("sure_stability_score_thresh", "sure_disagreement_thresh"),
}


class EverythingRequest(Strict):
    """SAM's parameters under their names; an absent one has SAM's default."""

    points_per_side: Annotated[int, Field(ge=1, le=MAX_POINTS_PER_SIDE)] | None = None
    points_per_batch: Annotated[int, Field(ge=1, le=MAX_POINTS_PER_BATCH)] | None = Field(
        default=None, description="Points between two events of progress."
    )
    pred_iou_thresh: Share | None = None
    stability_score_thresh: Share | None = None
    stability_score_offset: Number | None = None
    mask_threshold: Number | None = None
    box_nms_thresh: Share | None = None
    crop_n_layers: Annotated[int, Field(ge=0, le=MAX_CROP_LAYERS)] | None = None
    crop_nms_thresh: Share | None = None
    crop_overlap_ratio: Share | None = None
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1, le=64)] | None = None
    min_mask_region_area: Annotated[int, Field(ge=0, le=2**31)] | None = None
    multimask_output: bool | None = None
    use_m2m: bool = False

    formats: list[Format] = Field(default=["rle"], max_length=MAX_FORMATS)
    polygon_tolerance: Number = Field(default=1, ge=0)
    max_masks: int = Field(
        default=0, ge=0, le=MAX_SWEEP_MASKS, description="Masks in all; 0: no limit."
    )
    model: Name = Field(default="", description="Empty: the default model.")

    @property
    def options(self) -> GridOptions:
        """The parameters, for the client."""
        return GridOptions(**self.model_dump(exclude=OUTPUT | PROPOSING))

    @property
    def output(self) -> dict[str, Any]:
        """The parameters of the answer, for the client."""
        return {
            "formats": wire_formats(self.formats),
            "polygon_tolerance": self.polygon_tolerance,
            "max_masks": self.max_masks,
        }

    async def masks(
        self, client: AsyncClient, image: CachedImage, on_progress: OnProgress
    ) -> Everything:
        """Ask for the masks."""
        return await client.generate_masks(
            image, self.options, **self.output, on_progress=on_progress
        )


class AcceptedModel(Strict):
    """An accepted region, as the `rle` of a mask."""

    size: Annotated[
        list[Annotated[int, Field(ge=1, lt=2**31)]],
        Field(min_length=2, max_length=2, description="Height and width of the image."),
    ]
    counts: Annotated[str, Field(pattern="^[0-o]*$", description="COCO's compressed run lengths.")]

    def mask(self) -> Mask:
        """Convert for the client, which reads nothing else of an accepted mask."""
        height, width = self.size
        rle = self.counts.encode("ascii")
        return Mask(Size(width, height), rle, 0, 0, 0, (0, 0, 0, 0), b"", b"", [], b"")


class ProposalsRequest(EverythingRequest):
    """What is left beside accepted regions. The two thresholds say what is proposed at all."""

    accepted: list[AcceptedModel] = Field(default=[], max_length=MAX_ACCEPTED)
    sure_pred_iou_thresh: Share | None = None
    sure_stability_score_thresh: Share | None = None
    sure_disagreement_thresh: Share | None = None

    async def masks(
        self, client: AsyncClient, image: CachedImage, on_progress: OnProgress
    ) -> Everything:
        """Ask for the proposals."""
        accepted = [region.mask() for region in self.accepted]
        sureness = Sureness(
            self.sure_pred_iou_thresh,
            self.sure_stability_score_thresh,
            self.sure_disagreement_thresh,
        )
        return await client.propose(
            image,
            accepted,
            self.options,
            sureness=sureness,
            **self.output,
            on_progress=on_progress,
        )


async def stream(
    client: AsyncClient, image: CachedImage, asked: EverythingRequest
) -> StreamingResponse:
    """Start, and answer once there is a first event. The work ends when the caller leaves.

    Raises:
        SamserveError: It failed before the first event; a later failure is an event.
    """
    progress: asyncio.Queue[Event | None] = asyncio.Queue()  # None once the work has ended

    def note(done: int, points: int) -> None:
        progress.put_nowait(("progress", {"points": points, "done": done}))

    work = asyncio.create_task(asked.masks(client, image, note))
    work.add_done_callback(lambda _: progress.put_nowait(None))
    try:
        first = await progress.get()
        if first is None:
            work.result()  # raises if it failed
    except BaseException:
        work.cancel()
        raise
    return StreamingResponse(_events(first, progress, work, asked), media_type="text/event-stream")


async def _events(
    event: Event | None,
    progress: asyncio.Queue[Event | None],
    work: asyncio.Task[Everything],
    asked: EverythingRequest,
) -> AsyncIterator[bytes]:
    try:
        while event is not None:
            yield _event(*event)
            event = await progress.get()
        try:
            found = work.result()
            yield await asyncio.to_thread(lambda: _event("masks", _everything_json(found, asked)))
        except Exception as error:
            yield _event("problem", problem_json(problem_of(error)))
    finally:
        work.cancel()


def _event(name: str, data: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def _everything_json(found: Everything, asked: EverythingRequest) -> dict[str, Any]:
    write = _proposal_json if isinstance(asked, ProposalsRequest) else _record_json
    records = [write(record, asked) for record in found.records]
    return {**image_json(found), "found": found.found, "masks": records}


def _record_json(record: Record, asked: EverythingRequest) -> dict[str, Any]:
    return {
        **mask_json(record.mask, asked.formats),
        "point": record.point,
        "crop_box": record.crop_box,
    }


def _proposal_json(record: Record, asked: EverythingRequest) -> dict[str, Any]:
    return {
        **_record_json(record, asked),
        "sure": record.sure,
        "disagreement": record.disagreement,
        "ask": record.ask,
    }
