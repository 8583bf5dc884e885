"""A stopping server answers the calls it has begun before their connections end."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from contract.calls import CAP, FIRST, ID, opening, prompt, step, until
from contract.conftest import Service
from contract.test_segmentation import request
from samserve.decoder import delayed_status
from samserve.decoder.delayed_status import MOMENT
from samserve.v1 import segmentation_pb2 as pb


class Pauses:
    """The server's pauses between an answer and its status: each lasts until the test ends it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self.over.wait()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    pauses = Pauses()
    monkeypatch.setattr(delayed_status, "asyncio", SimpleNamespace(sleep=pauses.sleep))
    return pauses


async def test_a_call_ends_a_moment_after_its_answer(service: Service, pauses: Pauses) -> None:
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
        await until(lambda: pauses.seconds)
        assert pauses.seconds == [MOMENT]
        assert not call.done()
        pauses.over.set()
        assert await call.code() is grpc.StatusCode.OK
    await asyncio.wait_for(stop, CAP)


async def test_a_stream_ends_a_moment_after_its_last_answer(
    service: Service, pauses: Pauses
) -> None:
    service.decoder.go.clear()
    call = service.stub.Interact()
    for message in (opening(data=b"photo"), step(1, prompt(FIRST))):
        await call.write(message)
    assert (await call.read()).HasField("opened")
    await until(service.decoder.busy.is_set)
    stop = _stop(service)
    service.decoder.go.set()
    assert len((await call.read()).answer.masks) == 3
    await until(lambda: pauses.seconds == [MOMENT])
    assert not call.done()
    pauses.over.set()
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(stop, CAP)


async def test_a_server_that_does_not_stop_does_not_pause(service: Service, pauses: Pauses) -> None:
    service.embeddings.known.add(ID)
    assert (await service.stub.Predict(request(prompt(FIRST)))).results
    assert pauses.seconds == []


def _stop(service: Service) -> asyncio.Task[None]:
    service.draining.set()
    return asyncio.create_task(service.server.stop(grace=2 * CAP))
