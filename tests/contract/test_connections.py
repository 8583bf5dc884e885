"""Names that stand for many servers, and connections that end so that clients look for new ones."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc.aio
import numpy as np
import pytest
from contract.calls import FIRST, ID, Stream, prompt, refused, step, until
from contract.conftest import Service
from fake_triton import FakeTriton
from google.rpc import error_details_pb2 as details
from samserve.client import Client
from samserve.codec.packed import pack
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.image_source import RemoteEmbedder
from samserve.decoder.server import server_options
from samserve.decoder.servicer import TimeLimits
from samserve.embedding import encoder as encoder_module
from samserve.embedding.encoder import TritonEncoder
from samserve.infra.settings import DecoderSettings
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from tritonclient.grpc import service_pb2_grpc as triton_rpc

ENDS = 20.0  # seconds within which what must happen has happened


@dataclass
class CountingService(rpc.EmbeddingServiceServicer):
    """Answers every Embed with the same; remembers who asked."""

    peers: list[str] = field(default_factory=list)

    async def Embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> pb.EmbedResponse:
        self.peers.append(context.peer())
        packed = pack(Embedding("v1", Size(4, 3), {"embedding": np.zeros((1, 2, 2), np.float16)}))
        answer = pb.EmbedResponse(
            cache=types.CACHE_STATUS_HIT, embedding=types.PackedEmbedding(data=packed)
        )
        answer.image.model_version = "v1"
        return answer


@dataclass
class Pair:
    """Two servers, and a name that stands for both as a headless Service's does."""

    services: list[CountingService]
    tritons: list[FakeTriton]
    name: str


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    services, tritons = [CountingService(), CountingService()], [FakeTriton(), FakeTriton()]
    servers, ports = [grpc.aio.server(), grpc.aio.server()], []
    for service, triton, server in zip(services, tritons, servers, strict=True):
        rpc.add_EmbeddingServiceServicer_to_server(service, server)
        triton_rpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
    yield Pair(services, tritons, "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports))
    for server in servers:
        await server.stop(None)


async def test_the_client_asks_every_server_behind_a_name(pair: Pair) -> None:
    def use() -> None:
        with Client(pair.name, pair.name) as client:
            end = time.monotonic() + ENDS
            while not all(service.peers for service in pair.services):
                assert time.monotonic() < end
                client.embed(b"photo")

    await asyncio.to_thread(use)


async def test_the_decoder_asks_every_embedding_server_behind_a_name(pair: Pair) -> None:
    embedder, end = RemoteEmbedder(pair.name, 5, 2**20), time.monotonic() + ENDS
    while not all(service.peers for service in pair.services):
        assert time.monotonic() < end
        await embedder.embed("public", "", b"photo")
    await embedder.close()


async def test_the_encoder_asks_every_triton_behind_a_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "SPEC_AGE", -1.0)
    for triton in pair.tritons:
        triton.ready = {
            "nano": True,
            "twin": True,
        }  # each time three calls, so that the first is another's turn
    encoder, end = TritonEncoder(pair.name, 5, "nano"), time.monotonic() + ENDS
    while not all(triton.asked for triton in pair.tritons):
        assert time.monotonic() < end
        await encoder.spec("nano")
    await encoder.close()


async def test_a_dns_name_is_an_address(service: Service) -> None:
    def use() -> str:
        with (
            Client(f"dns:///localhost:{service.address.split(':')[1]}") as client,
            client.interact(b"photo") as photo,
        ):
            return photo.image.cache

    assert await asyncio.to_thread(use) == "MISS"


async def test_a_connection_ends_with_age_and_no_call_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAMSERVE_MAX_CONNECTION_AGE_S", "0.2")
    counting, server = CountingService(), grpc.aio.server(options=server_options(DecoderSettings()))
    rpc.add_EmbeddingServiceServicer_to_server(counting, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub, end = rpc.EmbeddingServiceStub(channel), time.monotonic() + ENDS
        while len(set(counting.peers)) < 4:
            assert time.monotonic() < end
            await stub.Embed(pb.EmbedRequest())
    await server.stop(None)


def test_a_connection_outlives_the_longest_stream_and_call() -> None:
    options = dict(server_options(DecoderSettings(max_stream_s=7, embed_timeout_s=3)))
    assert options["grpc.max_connection_age_grace_ms"] == 10_000


class TestAStream:
    @pytest.fixture
    def patience(self) -> TimeLimits:
        return TimeLimits(slow=60, stream=1)

    async def test_of_its_longest_life_ends_between_two_steps(self, service: Service) -> None:
        service.embeddings.known.add(ID)
        stream = Stream(service)
        await stream.open()
        service.decoder.go.clear()
        await stream.call.write(step(1, prompt(FIRST)))
        await until(service.decoder.busy.is_set)
        idle = Stream(service)
        await idle.open()
        retry = details.RetryInfo()
        assert (
            await refused(idle.call, retry) is grpc.StatusCode.UNAVAILABLE
        )  # the other one is as old
        service.decoder.go.set()
        assert len((await stream.call.read()).answer.masks) == 3
        assert await refused(stream.call, retry) is grpc.StatusCode.UNAVAILABLE
        assert retry.retry_delay.seconds == 1
