"""The client retries failures that pass: of Ray Serve's proxy, and of a stopping gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import grpc.aio
import pytest
from contract.calls import CAP
from samserve.client import CacheStatus, Click, Client, retry
from samserve.client.retry import RetryingCaller
from samserve.core.errors import DeadlinePassed, InvalidInput, Overloaded, Unavailable
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY, status_of

PHOTO = bytes(2**20)  # more than gRPC keeps for retries of its own


class FailingService(rpc.EmbeddingServiceServicer):
    """Answers with each of `codes` in turn, then well, or with `hangs` not at all."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.asked = 0
        self.says_when = self.hangs = False

    async def Embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> pb.EmbedResponse:
        self.asked += 1
        if self.codes:
            context.set_code(self.codes.pop(0))
            context.set_details("in passing")
            if self.says_when:
                context.set_trailing_metadata(
                    [(DETAILS_KEY, status_of(Overloaded("it")).SerializeToString())]
                )
        elif self.hangs:
            await asyncio.sleep(60)
        return pb.EmbedResponse(cache=types.CACHE_STATUS_COALESCED)


class StoppingDecoder(segmentation_pb2_grpc.SegmentationServiceServicer):
    """Cancels calls and streams `before` it takes one; a stream it has taken, at the first step."""

    def __init__(self, before: int) -> None:
        self._before = before

    async def Predict(
        self, request: segmentation_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> segmentation_pb2.PredictResponse:
        await self._cancel_some(context)
        return segmentation_pb2.PredictResponse(
            cache=types.CACHE_STATUS_HIT, results=[segmentation_pb2.PromptResult()]
        )

    async def Interact(
        self,
        requests: AsyncIterator[segmentation_pb2.InteractRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[segmentation_pb2.InteractResponse]:
        await self._cancel_some(context)
        async for request in requests:
            if request.HasField("step"):
                await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")
            yield segmentation_pb2.InteractResponse(
                opened=segmentation_pb2.InteractResponse.Opened()
            )

    async def _cancel_some(self, context: grpc.aio.ServicerContext) -> None:
        if self._before:
            self._before -= 1
            await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")


class Clock:
    """Stands for the client's clock: time passes only in the pauses between attempts."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.slept = 0.0  # seconds that pass in each pause; 0: as many as it has

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += self.slept or seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FailingService:
    monkeypatch.setattr(retry, "LONGEST", 0.01)
    return FailingService()


@pytest.fixture
async def client(service: FailingService) -> AsyncIterator[Client]:
    server = grpc.aio.server()
    rpc.add_EmbeddingServiceServicer_to_server(service, server)
    segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(
        StoppingDecoder(before=2), server
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    with Client(address, address, timeout=CAP) as client:
        yield client
    await server.stop(None)


async def test_failures_that_pass_are_tried_again_however_large_the_photo(
    client: Client, service: FailingService
) -> None:
    service.codes = [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
    ]
    answer = await asyncio.to_thread(client.embed, PHOTO)
    assert (answer.cache, service.asked) == (CacheStatus.COALESCED, 4)


async def test_a_failure_that_stays_is_raised_after_the_last_attempt(
    client: Client, service: FailingService
) -> None:
    service.codes = [grpc.StatusCode.UNAVAILABLE] * 9
    with pytest.raises(Unavailable, match="in passing"):
        await asyncio.to_thread(client.embed, PHOTO)
    assert service.asked == 4


async def test_a_service_that_says_when_to_come_back_is_asked_until_it_answers(
    client: Client, service: FailingService
) -> None:
    service.codes, service.says_when = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 12, True
    assert (await asyncio.to_thread(client.embed, PHOTO)).cache is CacheStatus.COALESCED
    assert service.asked == 13


async def test_and_no_longer_than_the_caller_has_time(
    service: FailingService, client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST", 5.0)
    service.codes, service.says_when = [grpc.StatusCode.UNAVAILABLE] * 1000, True
    with pytest.raises(Unavailable):
        await asyncio.to_thread(
            partial(
                RetryingCaller("it").call,
                client._embed,
                pb.EmbedRequest(),
                timeout=CAP,
            )
        )
    assert CAP - 5 <= clock.now < CAP
    assert retry.ATTEMPTS < len(clock.pauses) < 1000


@pytest.mark.parametrize("failures", [0, 1])
async def test_a_timeout_in_a_later_attempt_is_reported_as_the_failure_before_it(
    service: FailingService, client: Client, clock: Clock, failures: int
) -> None:
    service.codes, service.hangs = [grpc.StatusCode.UNAVAILABLE] * failures, True
    seconds = CAP if failures else 0.2
    clock.slept = CAP - 0.2  # what is left for the attempt that hangs
    with pytest.raises(Unavailable if failures else DeadlinePassed):
        await asyncio.to_thread(
            partial(
                RetryingCaller("it").call,
                client._embed,
                pb.EmbedRequest(),
                timeout=seconds,
            )
        )
    assert len(clock.pauses) == failures


async def test_a_callers_mistake_is_not_tried_again(
    client: Client, service: FailingService
) -> None:
    service.codes = [grpc.StatusCode.INVALID_ARGUMENT] * 2
    with pytest.raises(InvalidInput):
        await asyncio.to_thread(client.embed, PHOTO)
    assert service.asked == 1


async def test_a_click_that_reaches_a_stopping_decoder_is_tried_again(client: Client) -> None:
    answer = await asyncio.to_thread(client.segment, PHOTO, [Click(1, 1)])
    assert answer.cache is CacheStatus.HIT


async def test_so_is_a_streams_opening_but_one_that_breaks_off_is_to_be_opened_anew(
    client: Client,
) -> None:
    stream = await asyncio.to_thread(client.interact, PHOTO)
    with pytest.raises(Unavailable, match="the decoder cancelled the call"):
        await asyncio.to_thread(stream.step, [Click(1, 1)])
