"""One trace through client, decoder, embedding service, Redis and the encoder, in one process."""

import asyncio
import io
from contextlib import AbstractContextManager

import grpc.aio
import pytest
from contract.calls import FIRST, prompt
from contract.conftest import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image
from samserve.client import Click, Client
from samserve.core.image_id import image_id
from samserve.infra import tracing
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.wire.request_id import REQUEST_ID_KEY
from samserve.wire.status import DETAILS_KEY
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The exported spans; tracing is off again after the test."""
    monkeypatch.setattr(tracing, "_tracer", None)
    exporter.clear()
    return exporter


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (320, 200), (shade, 0, 0)).save(out, "PNG")
    return out.getvalue()


def caller() -> AbstractContextManager[trace.Span]:
    """A span of the program that uses the client."""
    return trace.get_tracer("the caller").start_as_current_span("use")


def tree(spans: tuple[ReadableSpan, ...]) -> dict[str, list[str]]:
    """Names of spans by the names of their parents, in order of their start."""
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
        "redis holder",
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


async def test_a_failure_is_recorded_on_its_span(path: Path, spans: InMemorySpanExporter) -> None:
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


async def test_a_streams_steps_belong_to_the_trace_of_its_opening(
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


async def test_nothing_is_traced_unless_tracing_is_set_up(
    path: Path, spans: InMemorySpanExporter
) -> None:
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        assert (
            await stub.Predict(pb.PredictRequest(prompts=[prompt(FIRST)], data=picture(3)))
        ).results
    assert spans.get_finished_spans() == ()
    assert "traceparent" not in path.triton.told


async def test_log_lines_of_both_services_have_the_request_id(path: Path) -> None:
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


async def test_the_embedding_service_returns_the_request_id(path: Path) -> None:
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
