"""A stopping server answers the calls it has begun before their connections end."""

import asyncio
import time

import grpc
from contract.calls import FIRST, ID, opening, prompt, step, until
from contract.conftest import Service
from contract.test_segmentation import request
from samserve.decoder.delayed_status import MOMENT
from samserve.v1 import segmentation_pb2 as pb


async def test_a_call_ends_a_moment_after_its_answer(service: Service) -> None:
    service.embeddings.known.add(ID)
    service.decoder.go.clear()
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = channel.unary_stream(  # Predict's caller reads answer and end as one
            "/samserve.v1.SegmentationService/Predict",
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )(request(prompt(FIRST)))
        await until(service.decoder.busy.is_set)
        stop = _stop(service)
        service.decoder.go.set()
        assert len((await call.read()).results[0].masks) == 3
        answered = time.monotonic()
        assert await call.code() is grpc.StatusCode.OK
        assert time.monotonic() - answered > 0.8 * MOMENT
    await asyncio.wait_for(stop, 5)


async def test_a_stream_ends_a_moment_after_its_last_answer(service: Service) -> None:
    service.decoder.go.clear()
    call = service.stub.Interact()
    for message in (opening(data=b"photo"), step(1, prompt(FIRST))):
        await call.write(message)
    assert (await call.read()).HasField("opened")
    await until(service.decoder.busy.is_set)
    stop = _stop(service)
    service.decoder.go.set()
    assert len((await call.read()).answer.masks) == 3
    answered = time.monotonic()
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - answered > 0.8 * MOMENT
    await asyncio.wait_for(stop, 5)


async def test_a_server_that_stays_does_not_wait(service: Service) -> None:
    service.embeddings.known.add(ID)
    await service.stub.Predict(request(prompt(FIRST)))
    times = []
    for _ in range(5):
        begun = time.monotonic()
        await service.stub.Predict(request(prompt(FIRST)))
        times.append(time.monotonic() - begun)
    assert min(times) < MOMENT


def _stop(service: Service) -> asyncio.Task[None]:
    service.draining.set()
    return asyncio.create_task(service.server.stop(20))
