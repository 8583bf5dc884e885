"""The decoder under more load than it can serve."""

import asyncio

import grpc
import grpc.aio
import pytest
from contract.calls import CAP, FIRST, ID, SECOND, Stream, ended, prompt, step, until
from contract.conftest import QUEUE, Service
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from prometheus_client import REGISTRY
from samserve.client import Click, Client
from samserve.core.errors import Overloaded
from samserve.core.limits import DEFAULT_BATCHES
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import DETAILS_KEY

THREADS = 2


def request(prompts: int = 1) -> pb.PredictRequest:
    return pb.PredictRequest(ref=types.ImageRef(image_id=ID), prompts=[prompt(FIRST)] * prompts)


def waiting() -> float:
    return REGISTRY.get_sample_value("samserve_decode_waiting") or 0.0


async def held(service: Service, waiting_ones: int) -> list[grpc.aio.UnaryUnaryCall]:
    """Hold one call per thread in the decoder, and so many more in its queue."""
    service.embeddings.known.add(ID)
    service.decoder.go.clear()
    calls = [service.stub.Predict(request()) for _ in range(THREADS + waiting_ones)]
    await until(lambda: waiting() == waiting_ones)
    return calls


@pytest.fixture
async def line(service: Service) -> list[grpc.aio.UnaryUnaryCall]:
    """As many held calls as the decoder accepts."""
    return await held(service, QUEUE)


async def refused(service: Service, asked: pb.PredictRequest) -> details.RetryInfo:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Predict(asked)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())[DETAILS_KEY])
    retry = details.RetryInfo()
    assert status.details[0].Unpack(retry)
    return retry


async def test_a_full_queue_refuses_with_a_time_and_answers_those_in_it(
    service: Service, line: list[grpc.aio.UnaryUnaryCall]
) -> None:
    retry = await refused(service, request())
    assert 0 < retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 <= 10
    service.decoder.go.set()
    assert [len((await call).results) for call in line] == [1] * len(line)
    assert len(service.decoder.decoded) == len(line)
    assert (await service.stub.Predict(request())).results
    assert waiting() == 0


async def test_a_call_of_several_prompts_is_accepted_beside_a_full_queue(
    service: Service, line: list[grpc.aio.UnaryUnaryCall]
) -> None:
    many = service.stub.Predict(request(prompts=20))
    await until(lambda: waiting() == QUEUE + THREADS)
    await refused(service, request())
    service.decoder.go.set()
    assert len((await many).results) == 20
    await asyncio.gather(*line)


async def test_calls_of_several_prompts_beyond_their_limit_are_refused_with_a_time(
    service: Service,
) -> None:
    service.embeddings.known.add(ID)
    service.decoder.go.clear()
    calls = [service.stub.Predict(request(prompts=3)) for _ in range(DEFAULT_BATCHES)]
    await until(lambda: in_progress() == DEFAULT_BATCHES)
    await until(lambda: waiting() == 0 and service.decoder.busy.is_set())
    retry = await refused(service, request(prompts=2))
    assert 0 < retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 <= 10
    service.decoder.go.set()
    assert [len((await call).results) for call in calls] == [3] * DEFAULT_BATCHES


async def test_after_their_callers_leave_no_further_prompt_is_begun(service: Service) -> None:
    service.embeddings.known.add(ID)
    service.decoder.go.clear()
    before = decoded()
    calls = [service.stub.Predict(request(prompts=60)) for _ in range(4)]
    await until(lambda: len(service.decoder.decoded) == THREADS)
    for call in calls:
        call.cancel()
    await until(lambda: in_progress() == 0)

    # The prompts in the threads still count.
    clicks = [service.stub.Predict(request()) for _ in range(QUEUE)]
    await until(lambda: waiting() == QUEUE)

    service.decoder.go.set()
    await asyncio.gather(*clicks)
    assert len(service.decoder.decoded) == THREADS + len(clicks)
    assert decoded() == before + THREADS + len(clicks)
    assert waiting() == 0


def in_progress() -> float:
    labels = {"method": "Predict"}
    return REGISTRY.get_sample_value("samserve_requests_in_progress", labels) or 0.0


def decoded() -> float:
    return REGISTRY.get_sample_value("samserve_decoded_total", {"model": "nano"}) or 0.0


async def test_a_call_cancelled_while_it_waits_is_not_decoded_and_frees_its_place(
    service: Service,
) -> None:
    line = await held(service, QUEUE - 1)
    cancelled = service.stub.Predict(request())
    await until(lambda: waiting() == QUEUE)
    cancelled.cancel()
    await until(lambda: waiting() == QUEUE - 1)
    assert await cancelled.code() is grpc.StatusCode.CANCELLED
    await answered_without_it(service, line)


async def test_a_call_whose_deadline_passes_while_it_waits_is_not_decoded_and_frees_its_place(
    service: Service,
) -> None:
    line = await held(service, QUEUE - 1)
    late = await in_the_queue_with_a_deadline(service)
    await until(lambda: waiting() == QUEUE - 1)
    assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await answered_without_it(service, line)


async def in_the_queue_with_a_deadline(service: Service) -> grpc.aio.UnaryUnaryCall:
    """A call in the last free place, with the first of some deadlines that does not pass before."""
    for seconds in (0.3, 1, 3, 9, 27):
        call = service.stub.Predict(request(), timeout=seconds)
        await until(lambda: call.done() or waiting() == QUEUE)  # noqa: B023
        if not call.done():
            break
    return call


async def answered_without_it(service: Service, line: list[grpc.aio.UnaryUnaryCall]) -> None:
    """Let the decoder go on: it decodes the calls in the line and nothing else."""
    service.decoder.go.set()
    await asyncio.gather(*line)
    assert len(service.decoder.decoded) == len(line)
    assert waiting() == 0


async def test_a_refused_step_is_answered_and_the_stream_goes_on(service: Service) -> None:
    service.embeddings.known.add(ID)
    stream = Stream(service)
    await stream.open()
    (first,) = await stream.ask(step(1, prompt(FIRST)))
    line = await held(service, QUEUE)
    before = refusals()
    (no,) = await stream.ask(step(2, prompt(SECOND)))
    assert (no.error.code, len(no.masks)) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 0)
    assert no.error.details[0].Unpack(details.RetryInfo())
    assert refusals() == before + 1
    service.decoder.go.set()
    await asyncio.gather(*line)
    (again,) = await stream.ask(step(3, prompt(SECOND)))
    former = first.masks[0].low_res_logits
    asked = pb.PredictRequest(
        ref=types.ImageRef(image_id=ID),
        prompts=[prompt(SECOND, mask_input=former, multimask=False)],
        output=pb.OutputOptions(low_res_logits=True),
    )
    assert again.masks == (await service.stub.Predict(asked)).results[0].masks
    stream.call.cancel()


def refusals() -> float:
    labels = {"method": "Interact.step", "code": "RESOURCE_EXHAUSTED"}
    return REGISTRY.get_sample_value("samserve_requests_total", labels) or 0.0


async def test_the_clients_step_says_that_the_queue_is_full(service: Service) -> None:
    def use() -> None:
        with Client(service.address) as client, client.interact(b"the image") as image:
            asyncio.run_coroutine_threadsafe(fill(), loop).result(CAP)
            with pytest.raises(Overloaded) as caught:
                image.step([Click(100, 50)])
            assert caught.value.retry_after >= 0.1
            service.decoder.go.set()

    async def fill() -> None:
        calls.extend(await held(service, QUEUE))

    loop, calls, before = asyncio.get_running_loop(), list[grpc.aio.UnaryUnaryCall](), ended("OK")
    await asyncio.to_thread(use)
    await asyncio.gather(*calls)
    await until(lambda: ended("OK") == before + 1)
