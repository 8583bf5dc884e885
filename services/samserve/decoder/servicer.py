"""The decoder's gRPC methods: they translate, and decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Never, TypeAlias

import grpc.aio
import numpy as np

from samserve.core.errors import InvalidInput, Overloaded, Unavailable
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.core.limits import MAX_FORMATS, RequestLimits, check_count, check_string
from samserve.core.rings import Ring
from samserve.decoder.delayed_status import delay_if_draining
from samserve.decoder.interaction import Interaction, Step, StepAnswer
from samserve.decoder.masks.write import MaskAnswer, Output, check_output
from samserve.decoder.pace import Pace
from samserve.decoder.prompt import BACKGROUND, FOREGROUND, PromptInput
from samserve.decoder.registry import ServedModel
from samserve.decoder.segmenter import FoundImage, MaskRequest, Segmented, Segmenter
from samserve.decoder.transfers import Transfers
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, span
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.call import Call, call_scope
from samserve.wire.convert import cache_status_to_proto, image_ref, stage_times
from samserve.wire.metadata import tenant_of
from samserve.wire.parts import RefusedMessage, parsed
from samserve.wire.status import status_of

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

LABELS = {
    types.POINT_LABEL_UNSPECIFIED: FOREGROUND,
    types.POINT_LABEL_FOREGROUND: FOREGROUND,
    types.POINT_LABEL_BACKGROUND: BACKGROUND,
}


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits in seconds.

    Attributes:
        slow: Calls and steps that take longer are logged.
        stream: Lifetime of an Interact stream.
    """

    slow: float
    stream: float


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of Interact streams.

    Attributes:
        most: Streams that are open at once.
        steps_per_s: Steps of one stream that are read per second; the others wait unread.
    """

    most: int = 256
    steps_per_s: float = 200


class SegmentationServicer(rpc.SegmentationServiceServicer):
    """Translates between the proto and the segmenter."""

    def __init__(
        self,
        segmenter: Segmenter,
        draining: asyncio.Event,
        limits: TimeLimits,
        request_limits: RequestLimits,
        transfers: Transfers,
        streams: StreamLimits = StreamLimits(),
    ) -> None:
        """Create the methods; once `draining` is set, streams end between two steps."""
        self._segmenter = segmenter
        self._draining = draining
        self._limits = limits
        self._request_limits = request_limits
        self._transfers = transfers
        self._stream_limits = streams
        self._streams = 0

    async def Predict(
        self, request: pb.PredictRequest | RefusedMessage, context: Context
    ) -> pb.PredictResponse:
        metadata = context.invocation_metadata() or ()
        clock = StageClock()
        with call_scope("Predict", metadata, clock=clock, slow=self._limits.slow) as call:
            context.set_trailing_metadata(call.trailing_metadata)
            asked = _mask_request(parsed(request), context, self._request_limits)
            with self._transfers.hold_image(asked.image.data):
                segmented = await self._segmenter.segment(asked, clock)
            return _response(segmented, clock)
        return await _abort(call, context)

    async def Interact(self, _: AsyncIterator[pb.InteractRequest], context: Context) -> None:
        metadata = context.invocation_metadata() or ()
        with call_scope("Interact", metadata, traced=False) as call:
            context.set_trailing_metadata(call.trailing_metadata)
            with self._stream():
                interaction, size = await self._open(context)

                async with _in_background(
                    self._read_steps(interaction, context), self._end_in_time(interaction)
                ):
                    try:
                        async for answer in interaction.answers():
                            await self._transfers.send(context, _step_response(answer, size))
                    finally:
                        await delay_if_draining(self._draining)

        if call.failed:
            await _abort(call, context)

    async def ListModels(
        self, request: pb.ListModelsRequest | RefusedMessage, context: Context
    ) -> pb.ListModelsResponse:
        with call_scope("ListModels", context.invocation_metadata() or ()) as call:
            context.set_trailing_metadata(call.trailing_metadata)
            parsed(request)
            return pb.ListModelsResponse(models=map(_model, self._segmenter.models))
        return await _abort(call, context)

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """Count an open stream. Raises Overloaded if there are too many."""
        most = self._stream_limits.most
        if self._streams >= most:
            raise Overloaded(f"the decoder's set of {most} streams", retry_after=5)

        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def _open(self, context: Context) -> tuple[Interaction, Size]:
        """Answer the stream's first request; return its interaction and the image's size."""
        request = await self._next(context)
        if request is None or request.WhichOneof("message") != "open":
            raise InvalidInput("open", "the stream's first request must be an open")

        model = self._segmenter.resolve(request.open.model)
        output = _output(request.open.output, self._request_limits)
        check_output(output)

        clock = StageClock()
        asked = _image_request(request.open, context)
        with span("Interact.open", Kind.SERVER), self._transfers.hold_image(asked.data):
            image = await self._segmenter.find(asked, model, clock)
        await self._transfers.send(context, _opened_response(image, clock))

        interaction = Interaction(self._segmenter, model, image, output, slow=self._limits.slow)
        return interaction, image.ready.size

    async def _read_steps(self, interaction: Interaction, context: Context) -> None:
        pace = Pace(self._stream_limits.steps_per_s)
        try:
            while (request := await self._next(context, may_idle=True)) is not None:
                interaction.submit(_step(request, self._request_limits))
                await interaction.wait_for_room()
                await pace.wait()
            interaction.end()
        except Exception as error:
            interaction.end(error)

    async def _next(self, context: Context, *, may_idle: bool = False) -> pb.InteractRequest | None:
        """Return the next request, or None once the client has half-closed.

        gRPC's own iterator would keep the bytes of an open in memory.

        Raises:
            InvalidInput: The request was refused unparsed.
        """
        request: object = await self._transfers.receive(context, may_idle=may_idle)
        if not isinstance(request, pb.InteractRequest | RefusedMessage):
            return None
        return parsed(request)

    async def _end_in_time(self, interaction: Interaction) -> None:
        """End the stream between two steps. A step is lost if the connection closes first."""
        try:
            async with asyncio.timeout(self._limits.stream):
                await self._draining.wait()
            interaction.end(Unavailable("this replica is shutting down; reopen the stream"))
        except TimeoutError:
            interaction.end(
                Unavailable(
                    "stream reached its maximum lifetime; reopen it (any replica can continue)"
                )
            )


def _mask_request(
    request: pb.PredictRequest, context: Context, limits: RequestLimits
) -> MaskRequest:
    check_count(len(request.prompts), limits.prompts, "prompts", "prompts in one call")
    return MaskRequest(
        image=_image_request(request, context),
        prompts=[
            _prompt_input(prompt, f"prompts[{index}]", limits)
            for index, prompt in enumerate(request.prompts)
        ],
        output=_output(request.output, limits),
    )


def _image_request(
    request: pb.PredictRequest | pb.InteractRequest.Open, context: Context
) -> ImageRequest:
    return ImageRequest(
        tenant=tenant_of(context.invocation_metadata() or ()),
        model=check_string(request.model, "model"),
        data=request.data if request.WhichOneof("image") == "data" else None,
        image_id=request.ref.image_id,
        expected_image_id=check_string(request.expected_image_id, "expected_image_id"),
        model_version=check_string(request.ref.model_version, "ref.model_version"),
    )


def _step(request: pb.InteractRequest, limits: RequestLimits) -> Step:
    if request.WhichOneof("message") != "step":
        raise InvalidInput("step", "every request after the stream's first must be a step")
    step = request.step
    try:
        prompt: PromptInput | InvalidInput = _prompt_input(step.prompt, "prompt", limits)
    except InvalidInput as error:
        prompt = error  # answered in the step's turn; the stream continues
    return Step(step.id, prompt, step.reset)


def _prompt_input(prompt: pb.Prompt, field: str, limits: RequestLimits) -> PromptInput:
    check_count(len(prompt.points), limits.points, f"{field}.points", "points")
    points = [(point.x, point.y) for point in prompt.points]
    labels = [LABELS.get(point.label) for point in prompt.points]
    if None in labels:
        index = labels.index(None)
        raise _unknown_label(prompt.points[index].label, f"{field}.points[{index}].label")

    box = prompt.box
    return PromptInput(
        points=np.array(points, np.float32).reshape(-1, 2),
        labels=np.array(labels, np.float32),
        box=np.array([box.x0, box.y0, box.x1, box.y1], np.float32)
        if prompt.HasField("box")
        else None,
        mask_input=prompt.mask_input,
        multimask=prompt.multimask if prompt.HasField("multimask") else None,
    )


def _unknown_label(label: int, field: str) -> InvalidInput:
    return InvalidInput(
        field, f"{field}: unknown label {label}; available: 1 (foreground), 2 (background)"
    )


def _output(options: pb.OutputOptions, limits: RequestLimits) -> Output:
    check_count(len(options.formats), MAX_FORMATS, "output.formats", "formats")
    formats = set(options.formats) or {pb.MASK_FORMAT_RLE}
    unknown = formats - set(pb.MaskFormat.values())
    if unknown:
        raise InvalidInput(
            "output.formats",
            f"output.formats: unknown format {min(unknown)}; "
            "available: 1 (RLE), 2 (PNG), 3 (polygons), 4 (bits)",
        )
    return Output(
        rle=bool(formats & {pb.MASK_FORMAT_RLE, pb.MASK_FORMAT_UNSPECIFIED}),
        png=pb.MASK_FORMAT_PNG in formats,
        polygons=pb.MASK_FORMAT_POLYGONS in formats,
        bits=pb.MASK_FORMAT_BITS in formats,
        low_res_logits=options.low_res_logits,
        polygon_tolerance=options.polygon_tolerance,
        max_masks=options.max_masks,
        max_bytes=limits.answer_bytes,
    )


def _response(segmented: Segmented, clock: StageClock) -> pb.PredictResponse:
    image = segmented.image
    return pb.PredictResponse(
        image=image_ref(image.image_id, image.ready),
        cache=cache_status_to_proto(image.status),
        results=[
            pb.PromptResult(masks=[_mask(mask, image.ready.size) for mask in masks])
            for masks in segmented.results
        ],
        timings=stage_times(clock.milliseconds),
    )


def _opened_response(image: FoundImage, clock: StageClock) -> pb.InteractResponse:
    return pb.InteractResponse(
        opened=pb.InteractResponse.Opened(
            image=image_ref(image.image_id, image.ready),
            cache=cache_status_to_proto(image.status),
            timings=stage_times(clock.milliseconds),
        )
    )


def _step_response(answer: StepAnswer, size: Size) -> pb.InteractResponse:
    return pb.InteractResponse(
        answer=pb.InteractResponse.Answer(
            step=answer.step,
            masks=[_mask(mask, size) for mask in answer.masks],
            superseded=answer.superseded,
            error=None if answer.error is None else status_of(answer.error),
            timings=stage_times(answer.milliseconds),
        )
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
        candidate=mask.candidate,
    )


def _model(model: ServedModel) -> pb.ListModelsResponse.Model:
    return pb.ListModelsResponse.Model(
        name=model.name,
        version=model.model_version,
        side=model.decoder.bundle.frame.side,
        low_res=model.low_res,
    )


def _ring(ring: Ring) -> pb.Ring:
    return pb.Ring(xy=ring.ravel().tolist())


async def _abort(call: Call, context: Context) -> Never:
    """End a failed call. By now it is counted and logged, so its caller cannot be faster."""
    await context.abort(call.code, call.status.message, call.trailing_metadata)


@asynccontextmanager
async def _in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the work in tasks while the block runs; they have all ended when it has."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
