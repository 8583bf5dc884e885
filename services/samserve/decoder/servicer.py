"""The decoder's gRPC servicer: wire only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc.aio
import numpy as np

from samserve.core.errors import DETAILS_KEY, InvalidInput, code_of, status_of
from samserve.core.rpc import stage_times, tenant_of
from samserve.core.telemetry import REQUEST_SECONDS, REQUESTS, REQUESTS_NOW, StageClock
from samserve.decoder.polygons import Ring
from samserve.decoder.prompt import BACKGROUND, FOREGROUND, Prompt
from samserve.decoder.segmenter import MaskAnswer, Output, Segmented, Segmenter, SegmentOrder
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types

Context: TypeAlias = "grpc.aio.ServicerContext[pb.PredictRequest, pb.PredictResponse]"


class SegmentationServicer(rpc.SegmentationServiceServicer):
    """Translates between the proto and the segmenter."""

    def __init__(self, segmenter: Segmenter, low_res: int) -> None:
        self._segmenter, self._low_res = segmenter, low_res

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        clock = StageClock()
        async with _answering("Predict", context):
            done = await self._segmenter.segment(self._order(request, context), clock)
            return _response(done, clock)
        raise AssertionError("unreachable: a failed call has been aborted")

    def _order(self, request: pb.PredictRequest, context: Context) -> SegmentOrder:
        formats = set(request.output.formats) or {pb.MASK_FORMAT_RLE}
        return SegmentOrder(
            tenant=tenant_of(context.invocation_metadata() or ()),
            model=request.model,
            data=request.data if request.WhichOneof("image") == "data" else None,
            image_id=request.ref.image_id,
            model_version=request.ref.model_version,
            prompts=[self._prompt(p, f"prompts[{i}]") for i, p in enumerate(request.prompts)],
            output=Output(
                rle=bool(formats & {pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_UNSPECIFIED}),
                png=pb.MASK_FORMAT_PNG in formats,
                polygons=pb.MASK_FORMAT_POLYGONS in formats,
                bits=pb.MASK_FORMAT_BITS in formats,
                low_res_logits=request.output.low_res_logits,
                polygon_tolerance=request.output.polygon_tolerance,
                max_masks=request.output.max_masks,
            ),
        )

    def _prompt(self, prompt: pb.Prompt, field: str) -> Prompt:
        side, logits = self._low_res, prompt.mask_input
        if logits and len(logits) != 2 * side * side:
            wanted = f"{2 * side * side:,} bytes: fp16, [{side}, {side}]"
            raise InvalidInput(f"{field}.mask_input", f"{field}.mask_input has {len(logits):,} bytes, not {wanted}")
        beside = types.POINT_LABEL_BACKGROUND
        return Prompt(
            points=np.array([(p.x, p.y) for p in prompt.points], np.float32).reshape(-1, 2),
            labels=np.array([BACKGROUND if p.label == beside else FOREGROUND for p in prompt.points], np.float32),
            box=np.array([prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1], np.float32)
            if prompt.HasField("box")
            else None,
            mask_input=np.frombuffer(logits, "<f2").reshape(side, side).astype(np.float32) if logits else None,
            multimask=prompt.multimask if prompt.HasField("multimask") else True,
        )


def _response(done: Segmented, clock: StageClock) -> pb.PredictResponse:
    return pb.PredictResponse(
        image=types.ImageRef(
            image_id=done.image_id, model_version=done.model_version, width=done.size.width, height=done.size.height
        ),
        cache=types.CACHE_STATUS_HIT if done.hit else types.CACHE_STATUS_MISS,
        results=[pb.PromptResult(masks=[_mask(m, done) for m in result]) for result in done.results],
        timings=stage_times(clock.milliseconds),
    )


def _mask(mask: MaskAnswer, done: Segmented) -> pb.Mask:
    size, box = done.size, mask.box
    return pb.Mask(
        predicted_iou=mask.predicted_iou,
        stability_score=mask.stability_score,
        area=mask.area,
        bbox=types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        rle=None if mask.rle is None else types.Rle(height=size.height, width=size.width, counts=mask.rle),
        png=mask.png or b"",
        low_res_logits=mask.low_res_logits or b"",
        polygons=[
            pb.Polygon(exterior=_ring(polygon.exterior), holes=map(_ring, polygon.holes))
            for polygon in mask.polygons or ()
        ],
        bits=mask.bits or b"",
    )


def _ring(ring: Ring) -> pb.Ring:
    return pb.Ring(xy=ring.ravel().tolist())


@asynccontextmanager
async def _answering(method: str, context: Context) -> AsyncIterator[None]:
    """Count and time the call; end it with the table's status if it fails."""
    started = time.perf_counter()
    code = grpc.StatusCode.OK
    try:
        with REQUESTS_NOW.labels(method).track_inprogress():
            yield
    except asyncio.CancelledError:
        code = grpc.StatusCode.CANCELLED
        raise
    except Exception as error:
        code, status = code_of(error), status_of(error)
        details = ((DETAILS_KEY, status.SerializeToString()),)
        await context.abort(code, status.message, details)
    finally:
        REQUESTS.labels(method, code.name).inc()
        REQUEST_SECONDS.labels(method).observe(time.perf_counter() - started)
