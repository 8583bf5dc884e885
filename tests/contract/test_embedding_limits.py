"""Limits of the embedding service's requests, checked before the cache is asked."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest
from contract.calls import CAP, ID, until
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import EmbeddingHeader
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.core.limits import BulkLimits
from samserve.embedding.embedder import EmbedResult
from samserve.embedding.registration import add_embedding_service
from samserve.infra.settings import EmbeddingSettings
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from samserve.wire.parts import RefusedMessage
from samserve.wire.status import DETAILS_KEY, error_of

LIMITS = BulkLimits(in_flight=4, all_in_flight=6, items=10, streams=2)
HEADER = EmbeddingHeader("nano-test", Size(3, 2))


class HeldEmbedder:
    """Knows every image. Counts the requests that it holds, and the most that it held at once."""

    def __init__(self) -> None:
        self.asked = self.held = self.most = 0
        self.go = asyncio.Event()
        self.go.set()

    async def embed(self, request: ImageRequest, *_: object, **__: object) -> EmbedResult:
        self.asked += 1
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            await self.go.wait()
        finally:
            self.held -= 1
        return EmbedResult(request.image_id, HEADER, CacheStatus.HIT)

    fetch = embed


@pytest.fixture
async def embedder() -> HeldEmbedder:
    return HeldEmbedder()


@pytest.fixture
async def stub(app: ModuleType, embedder: HeldEmbedder) -> AsyncIterator[rpc.EmbeddingServiceStub]:
    server = grpc.aio.server()
    servicer = app.EmbeddingServicer(embedder, None, limits=LIMITS, slow=60)
    add_embedding_service(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield rpc.EmbeddingServiceStub(channel)
    await server.stop(None)


def items(count: int, **fields: object) -> pb.EmbedManyRequest:
    return pb.EmbedManyRequest(
        items=[pb.EmbedManyRequest.Item(id=n, image_id=ID, **fields) for n in range(count)]
    )


def refusal(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Field and message of an INVALID_ARGUMENT."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    bad = details.BadRequest()
    assert status.details[0].Unpack(bad)
    return bad.field_violations[0].field, status.message


async def answers(call: grpc.aio.StreamStreamCall) -> list[pb.EmbedManyResponse.Answer]:
    return [answer async for response in call for answer in response.answers]


@pytest.mark.parametrize("digits", [309, 400, 5_000])
async def test_a_timeout_of_many_digits_is_no_internal_error(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder, digits: int
) -> None:
    timeout = (("samserve-timeout-ms", "9" * digits),)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(pb.EmbedRequest(image_id=ID), metadata=timeout)
    field, message = refusal(caught.value)
    assert field == "samserve-timeout-ms"
    assert message.endswith("at most 10 digits")
    assert len(message) < 250
    assert embedder.asked == 0


async def test_a_timeout_of_ten_digits_is_accepted(stub: rpc.EmbeddingServiceStub) -> None:
    timeout = (("samserve-timeout-ms", "9" * 10),)
    assert (await stub.Embed(pb.EmbedRequest(image_id=ID), metadata=timeout)).image.width == 3


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("model", {"model": "m" * 65}),
        ("expected_image_id", {"expected_image_id": "a" * 65}),
        ("priority", {"priority": 9}),
    ],
)
async def test_a_long_string_and_an_unknown_priority_are_refused(
    stub: rpc.EmbeddingServiceStub,
    embedder: HeldEmbedder,
    field: str,
    request_fields: dict[str, object],
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Embed(pb.EmbedRequest(image_id=ID, **request_fields))
    assert refusal(caught.value)[0] == field
    assert embedder.asked == 0


async def test_long_strings_of_get_embedding_are_refused(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder
) -> None:
    image = types.ImageRef(image_id=ID, model_version="v" * 65)
    for field, request in (
        ("model", pb.GetEmbeddingRequest(model="m" * 65)),
        ("image.model_version", pb.GetEmbeddingRequest(image=image)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.GetEmbedding(request):
                pass
        assert refusal(caught.value)[0] == field
    assert embedder.asked == 0


async def test_a_long_string_fails_its_own_item_only(stub: rpc.EmbeddingServiceStub) -> None:
    call = stub.EmbedMany(iter([items(1, model="m" * 65), items(3)]))
    codes = sorted(answer.error.code for answer in await answers(call))
    assert codes == [0, 0, 0, grpc.StatusCode.INVALID_ARGUMENT.value[0]]


async def test_as_many_items_as_allowed_are_answered(stub: rpc.EmbeddingServiceStub) -> None:
    call = stub.EmbedMany(iter([items(10), items(10)]))
    assert len(await answers(call)) == 20


async def test_one_item_more_ends_the_stream_before_any_is_asked_for(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub.EmbedMany(iter([items(11)])))
    assert refusal(caught.value) == ("items", "items: 11 items in one request; the limit is 10")
    assert embedder.asked == 0


async def test_millions_of_items_are_refused_before_they_are_parsed(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder
) -> None:
    items = pb.EmbedManyRequest.FromString(b"\x0a\x00" * 2**20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub.EmbedMany(iter([items])))
    assert refusal(caught.value)[0] == "request"
    assert embedder.asked == 0


async def test_one_stream_more_is_refused_until_another_ends(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder
) -> None:
    embedder.go.clear()
    open_streams = [stub.EmbedMany() for _ in range(LIMITS.streams)]
    for call in open_streams:
        await call.write(items(1))
    await until(lambda: embedder.held == LIMITS.streams)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub.EmbedMany(iter([items(1)])))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_of(caught.value, "the service").retry_after == 1  # type: ignore[attr-defined]

    embedder.go.set()
    for call in open_streams:
        await call.done_writing()
        assert len(await answers(call)) == 1
    assert len(await answers(stub.EmbedMany(iter([items(1)])))) == 1


async def test_all_streams_together_have_a_bound_of_items_in_flight(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder
) -> None:
    embedder.go.clear()
    calls = [asyncio.create_task(answers(stub.EmbedMany(iter([items(10)])))) for _ in range(2)]
    await until(lambda: embedder.held == LIMITS.all_in_flight)
    embedder.go.set()
    assert [len(each) for each in await asyncio.wait_for(asyncio.gather(*calls), CAP)] == [10, 10]
    assert embedder.most == LIMITS.all_in_flight


async def test_an_interactive_caller_waits_for_no_place_of_a_stream(
    stub: rpc.EmbeddingServiceStub, embedder: HeldEmbedder
) -> None:
    embedder.go.clear()
    calls = [asyncio.create_task(answers(stub.EmbedMany(iter([items(10)])))) for _ in range(2)]
    await until(lambda: embedder.held == LIMITS.all_in_flight)
    alone = stub.Embed(pb.EmbedRequest(image_id=ID))
    await until(lambda: embedder.held == LIMITS.all_in_flight + 1)
    embedder.go.set()
    assert (await alone).image.width == 3
    await asyncio.gather(*calls)


def test_the_defaults_are_the_documented_ones() -> None:
    limits = EmbeddingSettings().bulk_limits
    assert limits == BulkLimits(in_flight=16, all_in_flight=40, items=1000, streams=32)


async def test_ray_serves_own_server_refuses_unparsed_messages_too(app: ModuleType) -> None:
    grpc_util = importlib.import_module("ray.serve._private.grpc_util")
    received: list[object] = []

    def make_handler(service_method: str, streaming_type: object) -> Callable[..., object]:
        async def handle(request: object, _: object) -> bytes:
            received.append((service_method.rsplit("/")[-1], type(request)))
            return b""

        return handle

    server = grpc_util.gRPCGenericServer(make_handler)
    (name,) = app.GRPC_SERVICERS
    module, _, function = name.rpartition(".")
    getattr(importlib.import_module(module), function)(Mock(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        embed = channel.unary_unary("/samserve.v1.EmbeddingService/Embed")
        await embed(pb.EmbedRequest(image_id=ID).SerializeToString())
        await embed(b"\xf8\x01\x01" * 2**19)
    await server.stop(None)
    assert received == [("Embed", pb.EmbedRequest), ("Embed", RefusedMessage)]
