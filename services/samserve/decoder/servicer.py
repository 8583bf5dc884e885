"""The decoder's gRPC methods: they translate, and decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Never

from samserve.core.errors import InvalidInput, Overloaded, QuotaSpent, Unavailable
from samserve.core.geometry import Size
from samserve.core.holders import Holders
from samserve.core.limits import RequestLimits, check_count, check_string
from samserve.decoder.concept_messages import read_find, write_found
from samserve.decoder.concepts.finder import Finder
from samserve.decoder.delayed_status import delay_if_draining
from samserve.decoder.handout import Downloads, chunks, handout_of
from samserve.decoder.handout_messages import description_of, model_to_proto
from samserve.decoder.interaction import Interaction, Step, StepAnswer
from samserve.decoder.masks.write import check_output
from samserve.decoder.messages import Context, mask_to_proto, read_image, read_output, read_prompt
from samserve.decoder.open_work import OpenWork
from samserve.decoder.pace import Pace
from samserve.decoder.prompt import PromptInput
from samserve.decoder.segmenter import FoundImage, MaskRequest, Segmented, Segmenter
from samserve.decoder.sweep.sweeper import Started, Sweeper, SweepRequest
from samserve.decoder.sweep_messages import SweepWriter, read_sweep
from samserve.decoder.transfers import Transfers
from samserve.infra.quotas import Quota, Quotas
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, span
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.wire.call import Call, call_scope
from samserve.wire.callers import Callers
from samserve.wire.convert import cache_status_to_proto, image_ref, stage_times
from samserve.wire.parts import RefusedMessage, parsed
from samserve.wire.status import status_of


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
        share: Part of the streams that one tenant may have.
    """

    most: int = 256
    steps_per_s: float = 200
    share: float = 1.0


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
        *,
        sweeper: Sweeper,
        finder: Finder,
        callers: Callers | None = None,
        work: OpenWork | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """Create the methods; once `draining` is set, streams end between two steps."""
        self._sweeper = sweeper
        self._finder = finder
        self._callers = callers or Callers()
        self._work = work or OpenWork()
        self._quotas = quotas or Quotas()
        self._segmenter = segmenter
        self._draining = draining
        self._limits = limits
        self._request_limits = request_limits
        self._transfers = transfers
        self._stream_limits = streams
        self._streams = Holders(streams.most, streams.share)
        self._downloads = Downloads()

    async def Predict(
        self, request: pb.PredictRequest | RefusedMessage, context: Context
    ) -> pb.PredictResponse:
        metadata = context.invocation_metadata() or ()
        clock = StageClock()
        with (
            call_scope("Predict", metadata, clock=clock, slow=self._limits.slow) as call,
            self._callers.acting(metadata),
        ):
            context.set_trailing_metadata(call.trailing_metadata)
            self._quotas.take(Quota.REQUESTS)
            asked = _mask_request(parsed(request), self._request_limits)
            with self._transfers.hold_image(asked.image.data):
                segmented = await self._segmenter.segment(asked, clock)
            return _response(segmented, clock)
        return await _abort(call, context)

    async def Interact(self, _: AsyncIterator[pb.InteractRequest], context: Context) -> None:
        metadata = context.invocation_metadata() or ()
        with (
            call_scope("Interact", metadata, traced=False) as call,
            self._callers.acting(metadata),
        ):
            context.set_trailing_metadata(call.trailing_metadata)
            with self._stream():
                interaction, image = await self._open(context)

                key, size = image.key, image.ready.size
                with self._work.on(key.owner, key.whole, interaction.end):
                    del image  # only the resident images' bound keeps it
                    await self._answer_steps(interaction, size, context)

        if call.failed:
            await _abort(call, context)

    async def _answer_steps(self, interaction: Interaction, size: Size, context: Context) -> None:
        async with _in_background(
            self._read_steps(interaction, context), self._end_in_time(interaction)
        ):
            try:
                async for answer in interaction.answers():
                    await self._transfers.send(context, _step_response(answer, size))
            finally:
                await delay_if_draining(self._draining)

    async def Find(
        self, request: pb.FindRequest | RefusedMessage, context: Context
    ) -> pb.FindResponse:
        metadata = context.invocation_metadata() or ()
        clock = StageClock()
        with (
            call_scope("Find", metadata, clock=clock, slow=self._limits.slow) as call,
            self._callers.acting(metadata),
        ):
            context.set_trailing_metadata(call.trailing_metadata)
            self._quotas.take(Quota.REQUESTS)
            asked = read_find(parsed(request), self._request_limits)
            with self._transfers.hold_image(asked.image.data):
                found = await self._finder.find(asked, clock)
            return write_found(found, clock)
        return await _abort(call, context)

    async def ListModels(
        self, request: pb.ListModelsRequest | RefusedMessage, context: Context
    ) -> pb.ListModelsResponse:
        metadata = context.invocation_metadata() or ()
        with call_scope("ListModels", metadata) as call, self._callers.acting(metadata):
            context.set_trailing_metadata(call.trailing_metadata)
            parsed(request)
            models = self._segmenter.models
            return pb.ListModelsResponse(
                models=[
                    model_to_proto(model, self._finder.knows_concepts(model)) for model in models
                ]
            )
        return await _abort(call, context)

    async def GetDecoder(
        self, request: pb.GetDecoderRequest | RefusedMessage, context: Context
    ) -> None:
        metadata = context.invocation_metadata() or ()
        with call_scope("GetDecoder", metadata) as call, self._callers.acting(metadata):
            context.set_trailing_metadata(call.trailing_metadata)
            asked = parsed(request)
            model = self._segmenter.resolve(check_string(asked.model, "model"))
            with self._downloads.one():
                description = description_of(model)
                await self._transfers.send(context, pb.GetDecoderResponse(description=description))
                if description.bytes and not asked.description_only:
                    async with aclosing(chunks(handout_of(model))) as pieces:
                        async for piece in pieces:
                            await self._transfers.send(context, pb.GetDecoderResponse(chunk=piece))

        if call.failed:
            await _abort(call, context)

    async def GenerateMasks(
        self, request: pb.GenerateMasksRequest | RefusedMessage, context: Context
    ) -> None:
        metadata = context.invocation_metadata() or ()
        clock = StageClock()
        with (
            call_scope("GenerateMasks", metadata, clock=clock) as call,
            self._callers.acting(metadata),
        ):
            context.set_trailing_metadata(call.trailing_metadata)
            self._quotas.take(Quota.REQUESTS)
            asked = read_sweep(parsed(request), self._request_limits)
            del request  # with the image's bytes, if `asked` does not need them
            with self._transfers.hold_image(asked.image.data):
                await self._send_sweep(asked, clock, context)

        if call.failed:
            await _abort(call, context)

    async def _send_sweep(self, asked: SweepRequest, clock: StageClock, context: Context) -> None:
        ended: list[Exception] = []  # why, once its image is deleted
        writer = SweepWriter(clock)
        async with aclosing(self._sweeper.sweep(asked, clock)) as events:
            with ExitStack() as known:
                async for event in events:
                    if isinstance(event, Started):
                        key = event.image.key
                        known.enter_context(self._work.on(key.owner, key.whole, ended.append))
                    if ended:
                        raise ended[0]
                    if self._draining.is_set():
                        raise Unavailable("this replica is shutting down; try again")
                    await self._transfers.send(context, writer.message(event))

    def _stream(self) -> AbstractContextManager[None]:
        """Count an open stream during the block. Raises Overloaded if there are too many."""
        most = self._stream_limits.most
        return self._streams.hold(Overloaded(f"the decoder's set of {most} streams", 5))

    async def _open(self, context: Context) -> tuple[Interaction, FoundImage]:
        """Answer the stream's first request; return its interaction and the image."""
        request = await self._next(context)
        if request is None or request.WhichOneof("message") != "open":
            raise InvalidInput("open", "the stream's first request must be an open")

        model = self._segmenter.resolve(request.open.model)
        output = read_output(request.open.output, self._request_limits)
        check_output(output)

        clock = StageClock()
        asked = read_image(request.open)
        with span("Interact.open", Kind.SERVER), self._transfers.hold_image(asked.data):
            image = await self._segmenter.find(asked, model, clock)
        await self._transfers.send(context, _opened_response(image, clock))

        interaction = Interaction(self._segmenter, model, image, output, slow=self._limits.slow)
        return interaction, image

    async def _read_steps(self, interaction: Interaction, context: Context) -> None:
        pace = Pace(self._stream_limits.steps_per_s)
        try:
            while (request := await self._next(context, may_idle=True)) is not None:
                interaction.submit(self._read_step(request))
                await interaction.wait_for_room()
                await pace.wait()
            interaction.end()
        except Exception as error:
            interaction.end(error)

    def _read_step(self, request: pb.InteractRequest) -> Step:
        """Return a step; one over the quota is answered so in its turn, and the stream goes on."""
        step = _step(request, self._request_limits)
        try:
            self._quotas.take(Quota.REQUESTS)
        except QuotaSpent as refusal:
            return replace(step, prompt=refusal)
        return step

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


def _mask_request(request: pb.PredictRequest, limits: RequestLimits) -> MaskRequest:
    check_count(len(request.prompts), limits.prompts, "prompts", "prompts in one call")
    return MaskRequest(
        image=read_image(request),
        prompts=[
            read_prompt(prompt, f"prompts[{index}]", limits)
            for index, prompt in enumerate(request.prompts)
        ],
        output=read_output(request.output, limits),
    )


def _step(request: pb.InteractRequest, limits: RequestLimits) -> Step:
    if request.WhichOneof("message") != "step":
        raise InvalidInput("step", "every request after the stream's first must be a step")
    step = request.step
    try:
        prompt: PromptInput | InvalidInput = read_prompt(step.prompt, "prompt", limits)
    except InvalidInput as error:
        prompt = error  # answered in the step's turn; the stream continues
    return Step(step.id, prompt, step.reset)


def _response(segmented: Segmented, clock: StageClock) -> pb.PredictResponse:
    image = segmented.image
    return pb.PredictResponse(
        image=image_ref(image.image_id, image.ready),
        cache=cache_status_to_proto(image.status),
        results=[
            pb.PromptResult(masks=[mask_to_proto(mask, image.ready.size) for mask in masks])
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
            masks=[mask_to_proto(mask, size) for mask in answer.masks],
            superseded=answer.superseded,
            error=None if answer.error is None else status_of(answer.error),
            timings=stage_times(answer.milliseconds),
        )
    )


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
