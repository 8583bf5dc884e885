"""The decoder's gRPC servicer: wire only."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
import numpy as np
from google.rpc.status_pb2 import Status
from structlog.contextvars import bound_contextvars

from samserve.core.errors import InvalidInput, Unavailable
from samserve.core.geometry import Size
from samserve.decoder.delayed_status import delay_if_draining
from samserve.decoder.interaction import Interaction, Step, StepAnswer
from samserve.decoder.masks.polygons import Ring
from samserve.decoder.prompt import BACKGROUND, FOREGROUND, Prompt
from samserve.decoder.segmenter import (
    FoundImage,
    ImageOrder,
    MaskAnswer,
    Output,
    Segmented,
    Segmenter,
    SegmentOrder,
    check_output,
)
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, continue_trace, span
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.call import observe_call
from samserve.wire.metadata import cache_status_to_proto, stage_times, tenant_of
from samserve.wire.request_id import REQUEST_ID_KEY, request_id_of
from samserve.wire.status import DETAILS_KEY, code_of, status_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """In seconds. slow: an answer that takes longer is logged; stream: the longest life of an Interact stream."""

    slow: float
    stream: float


class SegmentationServicer(rpc.SegmentationServiceServicer):
    """Translates between the proto and the segmenter."""

    def __init__(self, segmenter: Segmenter, draining: asyncio.Event, patience: TimeLimits) -> None:
        self._segmenter, self._draining, self._patience = segmenter, draining, patience

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        clock = StageClock()
        async with _answering("Predict", context, clock, self._patience.slow):
            with span("Predict", Kind.SERVER):
                done = await self._segmenter.segment(self._order(request, context), clock)
                return _response(done, clock)
        raise AssertionError("unreachable: a failed call has been aborted")

    async def Interact(self, _: AsyncIterator[pb.InteractRequest], context: Context) -> None:
        async with _answering("Interact", context):
            image, low_res, output = await self._open(context)
            interaction = Interaction(self._segmenter, image.ready, output, self._patience.slow)
            async with _beside(
                self._take_steps(interaction, low_res, context), self._end_in_time(interaction)
            ):
                try:
                    async for answer in interaction.answers():
                        await context.write(_step_response(answer, image.ready.size))
                finally:
                    await delay_if_draining(self._draining)

    async def _open(self, context: Context) -> tuple[FoundImage, int, Output]:
        request = await _next(context)
        if request is None or request.WhichOneof("message") != "open":
            raise InvalidInput("open", "the stream's first request must be an open")
        output = _output(request.open.output)
        check_output(output)
        low_res = self._segmenter.low_res(request.open.model)
        clock = StageClock()
        with span("Interact.open", Kind.SERVER):
            image = await self._segmenter.find(_image_order(request.open, context), clock)
        await context.write(_opened_response(image, clock))
        return image, low_res, output

    async def _take_steps(self, interaction: Interaction, low_res: int, context: Context) -> None:
        try:
            while (request := await _next(context)) is not None:
                interaction.submit(_step(request, low_res))
            interaction.end()
        except Exception as error:
            interaction.end(error)

    async def _end_in_time(self, interaction: Interaction) -> None:
        """Between two steps: a stream that its connection took along would lose one."""
        try:
            async with asyncio.timeout(self._patience.stream):
                await self._draining.wait()
            interaction.end(Unavailable("this replica is shutting down: open the stream anew"))
        except TimeoutError:
            interaction.end(
                Unavailable(
                    "a stream does not live for ever: open it anew, perhaps on another replica"
                )
            )

    def _order(self, request: pb.PredictRequest, context: Context) -> SegmentOrder:
        low_res = self._segmenter.low_res(request.model)
        return SegmentOrder(
            image=_image_order(request, context),
            prompts=[_prompt(p, f"prompts[{i}]", low_res) for i, p in enumerate(request.prompts)],
            output=_output(request.output),
        )


async def _next(context: Context) -> pb.InteractRequest | None:
    """The next request, None once the client has half-closed. gRPC's own iterator would keep an open's bytes alive."""
    request: object = await context.read()
    return request if isinstance(request, pb.InteractRequest) else None


def _image_order(
    request: pb.PredictRequest | pb.InteractRequest.Open, context: Context
) -> ImageOrder:
    return ImageOrder(
        tenant=tenant_of(context.invocation_metadata() or ()),
        model=request.model,
        data=request.data if request.WhichOneof("image") == "data" else None,
        image_id=request.ref.image_id,
        expected_image_id=request.expected_image_id,
        model_version=request.ref.model_version,
    )


def _step(request: pb.InteractRequest, low_res: int) -> Step:
    if request.WhichOneof("message") != "step":
        raise InvalidInput("step", "every request after the stream's first must be a step")
    step = request.step
    try:
        prompt: Prompt | InvalidInput = _prompt(step.prompt, "prompt", low_res)
    except InvalidInput as error:
        prompt = error
    multimask = step.prompt.multimask if step.prompt.HasField("multimask") else None
    return Step(step.id, prompt, multimask, step.reset)


def _prompt(prompt: pb.Prompt, field: str, side: int) -> Prompt:
    logits = prompt.mask_input
    if logits and len(logits) != 2 * side * side:
        wanted = f"{2 * side * side:,} bytes: fp16, [{side}, {side}]"
        raise InvalidInput(
            f"{field}.mask_input", f"{field}.mask_input has {len(logits):,} bytes, not {wanted}"
        )
    beside = types.POINT_LABEL_BACKGROUND
    return Prompt(
        points=np.array([(p.x, p.y) for p in prompt.points], np.float32).reshape(-1, 2),
        labels=np.array(
            [BACKGROUND if p.label == beside else FOREGROUND for p in prompt.points], np.float32
        ),
        box=np.array([prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1], np.float32)
        if prompt.HasField("box")
        else None,
        mask_input=np.frombuffer(logits, "<f2").reshape(side, side).astype(np.float32)
        if logits
        else None,
        multimask=prompt.multimask if prompt.HasField("multimask") else True,
    )


def _output(options: pb.OutputOptions) -> Output:
    formats = set(options.formats) or {pb.MASK_FORMAT_RLE}
    return Output(
        rle=bool(formats & {pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_UNSPECIFIED}),
        png=pb.MASK_FORMAT_PNG in formats,
        polygons=pb.MASK_FORMAT_POLYGONS in formats,
        bits=pb.MASK_FORMAT_BITS in formats,
        low_res_logits=options.low_res_logits,
        polygon_tolerance=options.polygon_tolerance,
        max_masks=options.max_masks,
    )


def _response(done: Segmented, clock: StageClock) -> pb.PredictResponse:
    size = done.image.ready.size
    return pb.PredictResponse(
        image=_image_ref(done.image),
        cache=cache_status_to_proto(done.image.status),
        results=[
            pb.PromptResult(masks=[_mask(m, size) for m in result]) for result in done.results
        ],
        timings=stage_times(clock.milliseconds),
    )


def _opened_response(image: FoundImage, clock: StageClock) -> pb.InteractResponse:
    return pb.InteractResponse(
        opened=pb.InteractResponse.Opened(
            image=_image_ref(image),
            cache=cache_status_to_proto(image.status),
            timings=stage_times(clock.milliseconds),
        )
    )


def _step_response(answer: StepAnswer, size: Size) -> pb.InteractResponse:
    return pb.InteractResponse(
        answer=pb.InteractResponse.Answer(
            step=answer.step,
            masks=[_mask(m, size) for m in answer.masks],
            superseded=answer.superseded,
            error=None if answer.error is None else status_of(answer.error),
            timings=stage_times(answer.milliseconds),
        )
    )


def _image_ref(image: FoundImage) -> types.ImageRef:
    ready = image.ready
    return types.ImageRef(
        image_id=image.image_id,
        model_version=ready.model_version,
        width=ready.size.width,
        height=ready.size.height,
    )


def _mask(mask: MaskAnswer, size: Size) -> pb.Mask:
    box = mask.box
    return pb.Mask(
        predicted_iou=mask.predicted_iou,
        stability_score=mask.stability_score,
        area=mask.area,
        bbox=types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        rle=None
        if mask.rle is None
        else types.Rle(height=size.height, width=size.width, counts=mask.rle),
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
async def _answering(
    method: str, context: Context, clock: StageClock | None = None, slow: float = math.inf
) -> AsyncIterator[None]:
    """Count, time and log the call as `answering` does, under its id, as part of its caller's trace; then end it with
    the table's status if it has failed.
    """
    metadata = context.invocation_metadata() or ()
    request_id = request_id_of(metadata)
    trailer = (REQUEST_ID_KEY, request_id)
    context.set_trailing_metadata((trailer,))
    failed: tuple[grpc.StatusCode, Status] | None = None
    with (
        bound_contextvars(request_id=request_id),
        continue_trace(metadata),
        observe_call(method, clock, slow) as outcome,
    ):
        try:
            yield
        except Exception as error:
            failed = code, status = code_of(error), status_of(error)
            outcome.code, outcome.reason = code.name, status.message
    if failed:  # who reads a failure finds it counted and logged
        code, status = failed
        await context.abort(
            code, status.message, (trailer, (DETAILS_KEY, status.SerializeToString()))
        )


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the work in tasks of its own for as long as the block runs; at its end none is left."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
