"""Names with many servers, and connections that end so that clients find new servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc.aio
import numpy as np
import pytest
from contract.calls import CAP, FIRST, ID, Stream, prompt, refused, step, until
from contract.conftest import Service
from fake_triton import FakeTriton
from google.rpc import error_details_pb2 as details
from samserve.client import Client
from samserve.codec.packed import pack
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.decoder import server as server_module
from samserve.decoder.remote_embedder import RemoteEmbedder
from samserve.decoder.server import server_options
from samserve.decoder.servicer import TimeLimits
from samserve.embedding import encoder as encoder_module
from samserve.embedding.encoder import TritonEncoder
from samserve.infra.settings import DecoderSettings
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types
from tritonclient.grpc import service_pb2_grpc as triton_rpc

LIFE = 1234.5  # seconds: a stream's longest life, told apart from other timeouts by its value


@dataclass
class CountingService(rpc.EmbeddingServiceServicer):
    """Answers every Embed alike; remembers the callers."""

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
    """Two servers under one name, as of a headless Service."""

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


async def test_the_client_calls_every_server_behind_a_name(pair: Pair) -> None:
    def use() -> None:
        with Client(pair.name, pair.name) as client:
            end = time.monotonic() + CAP
            while not all(service.peers for service in pair.services):
                assert time.monotonic() < end
                client.embed(b"photo")

    await asyncio.to_thread(use)


async def test_the_decoder_calls_every_embedding_server_behind_a_name(pair: Pair) -> None:
    embedder, end = RemoteEmbedder(pair.name, 5, 2**20), time.monotonic() + CAP
    while not all(service.peers for service in pair.services):
        assert time.monotonic() < end
        await embedder.embed(ImageRequest("public", "", b"photo"))
    await embedder.close()


async def test_the_encoder_calls_every_triton_behind_a_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_module, "SPEC_AGE", -1.0)
    for triton in pair.tritons:
        # Three calls each time, an odd number: the first is the other server's turn.
        triton.ready = {"nano": True, "twin": True}
    encoder, end = TritonEncoder(pair.name, 5, "nano"), time.monotonic() + CAP
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
            return photo.image.cache.name

    assert await asyncio.to_thread(use) == "MISS"


async def test_an_old_connection_ends_without_breaking_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAMSERVE_MAX_CONNECTION_AGE_S", "0.2")
    counting, server = CountingService(), grpc.aio.server(options=server_options(DecoderSettings()))
    rpc.add_EmbeddingServiceServicer_to_server(counting, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub, end = rpc.EmbeddingServiceStub(channel), time.monotonic() + CAP
        while len(set(counting.peers)) < 4:
            assert time.monotonic() < end
            await stub.Embed(pb.EmbedRequest())
    await server.stop(None)


def test_a_connection_outlives_the_longest_stream_and_call() -> None:
    options = dict(server_options(DecoderSettings(max_stream_s=7, embed_timeout_s=3)))
    assert options["grpc.max_connection_age_grace_ms"] == 10_000


async def test_an_upload_that_never_ends_is_ended_for_memory(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = channel.stream_unary("/samserve.v1.SegmentationService/Predict")(timeout=CAP)
        await until(lambda: service.transfers.end_all() == 1)
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "memory for uploads" in await call.details()


async def test_a_call_without_a_message_is_invalid(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        call = channel.stream_unary("/samserve.v1.SegmentationService/Predict")(timeout=CAP)
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_keepalive_pings_of_clients_are_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    interval = 0.02
    monkeypatch.setattr(server_module, "SHORTEST_PING_INTERVAL_MS", round(500 * interval))
    server = grpc.aio.server(options=server_options(DecoderSettings()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(kind=4))

    kinds: list[int] = []
    for number in range(8):
        writer.write(frame(kind=6, body=bytes([number] * 8)))
        while kinds.count(6) <= number and 7 not in kinds:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if (head[3], head[4]) != (6, 0):  # not the server's own ping
                kinds.append(head[3])
        await asyncio.sleep(interval)
    assert kinds.count(6) == 8
    assert 7 not in kinds  # GOAWAY
    writer.close()
    await server.stop(None)


def frame(kind: int, body: bytes = b"") -> bytes:
    """An HTTP/2 frame of the connection."""
    return len(body).to_bytes(3, "big") + bytes([kind]) + bytes(5) + body


def test_the_servers_connections_are_bounded() -> None:
    settings = DecoderSettings(max_connections=7, max_calls_per_connection=5)
    options = dict(server_options(settings))
    assert options["grpc.max_allowed_incoming_connections"] == 7
    assert options["grpc.max_concurrent_streams"] == 5
    assert options["grpc.max_connection_idle_ms"] == 120_000
    assert options["grpc.keepalive_time_ms"] == 20_000


class TestAStream:
    @pytest.fixture
    def patience(self) -> TimeLimits:
        return TimeLimits(slow=60, stream=LIFE)

    @pytest.fixture
    def lives(self, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Timeout]:
        """The lives of the streams: they end when the test says so."""
        lives: list[asyncio.Timeout] = []
        timeout = asyncio.timeout

        def begin(seconds: float | None) -> asyncio.Timeout:
            if seconds != LIFE:
                return timeout(seconds)
            lives.append(timeout(None))
            return lives[-1]

        monkeypatch.setattr(asyncio, "timeout", begin)
        return lives

    async def test_at_the_end_of_its_life_closes_between_two_steps(
        self, service: Service, lives: list[asyncio.Timeout]
    ) -> None:
        service.embeddings.known.add(ID)
        stream = Stream(service)
        await stream.open()
        service.decoder.go.clear()
        await stream.call.write(step(1, prompt(FIRST)))
        await until(service.decoder.busy.is_set)
        idle = Stream(service)
        await idle.open()
        await until(lambda: len(lives) == 2)
        for life in lives:
            life.reschedule(asyncio.get_running_loop().time())
        retry = details.RetryInfo()
        assert await refused(idle.call, retry) is grpc.StatusCode.UNAVAILABLE
        service.decoder.go.set()
        assert len((await stream.call.read()).answer.masks) == 3
        assert await refused(stream.call, retry) is grpc.StatusCode.UNAVAILABLE
        assert retry.retry_delay.seconds == 1
