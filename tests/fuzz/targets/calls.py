"""Any request that the descriptors allow is answered, or refused with a status that is no bug."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import Any

import atheris
import grpc
import structlog
from fakes import FakeCache, FakeEmbeddings, FakeEncoder, FakeHead, InProcessDecoder
from fuzz.values import small_bundle, small_decoder, small_image
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from samserve.core.embedding import SizeLimits
from samserve.core.image import Limits
from samserve.core.limits import MAX_CROP_LAYERS, MAX_POINTS_PER_SIDE
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.concepts.finder import Finder
from samserve.decoder.concepts.head import ConceptHeads
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer, TimeLimits
from samserve.decoder.sweep.pool import SweepPool
from samserve.decoder.sweep.sweeper import Sweeper
from samserve.decoder.transfers import Transfers
from samserve.embedding.admission import EncodeSlots
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.concept_finder import ConceptFinder
from samserve.embedding.embedder import Embedder
from samserve.embedding.servicer import EmbeddingServicer
from samserve.infra.settings import DecoderSettings, EmbeddingSettings
from samserve.v1 import embedding_pb2, segmentation_pb2

MOST_BYTES = 2048
IMAGES = Limits(max_bytes=2**16, max_pixels=10_000, max_aspect=64)
BUGS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
ID = "ab" * 32
TEXTS = ("", ID, "nano", small_bundle().model_version, "x" * 70, "\0", "ä", "../x")
MOST_SIDE = 4  # points along a side of a grid
PATIENCE = 20.0  # seconds for a call on a busy machine
METADATA = ("samserve-tenant", "samserve-timeout-ms", "x-request-id", "traceparent")

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


class Ended(Exception):
    """The service has ended the call."""


class Here(Executor):
    """Runs work at once, in the caller's thread: inputs behave the same each time."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as problem:
            future.set_exception(problem)
        return future


class Context:
    """A call's context: requests to read, responses that were written, the status."""

    def __init__(self, metadata: list[tuple[str, str]], requests: list[Message]) -> None:
        self._metadata = metadata
        self._requests = deque(requests)
        self.written: list[Any] = []
        self.code = grpc.StatusCode.OK

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._metadata

    def set_trailing_metadata(self, metadata: object) -> None:
        pass

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        pass

    async def abort(self, code: grpc.StatusCode, *_: object) -> None:
        self.code = code
        raise Ended

    async def read(self) -> object:
        return self._requests.popleft() if self._requests else grpc.aio.EOF

    async def write(self, response: object) -> None:
        self.written.append(response)


def message(source: atheris.FuzzedDataProvider, kind: Descriptor, depth: int = 0) -> Message:
    """Return a message of any content; fields of a message four deep stay empty."""
    made = GetMessageClass(kind)()
    for field in kind.fields:
        if depth > 4 or not source.ConsumeBool():
            continue
        if field.label == FieldDescriptor.LABEL_REPEATED:
            values = getattr(made, field.name)
            for _ in range(source.ConsumeIntInRange(0, 3)):
                values.append(value(source, field, depth))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(made, field.name).CopyFrom(value(source, field, depth))
        else:
            setattr(made, field.name, value(source, field, depth))
    return made


def value(source: atheris.FuzzedDataProvider, field: FieldDescriptor, depth: int) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            return message(source, field.message_type, depth + 1)
        case FieldDescriptor.TYPE_STRING:
            return TEXTS[source.ConsumeIntInRange(0, len(TEXTS) - 1)]
        case FieldDescriptor.TYPE_BYTES:
            return source.ConsumeBytes(source.ConsumeIntInRange(0, 64))
        case FieldDescriptor.TYPE_BOOL:
            return source.ConsumeBool()
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return (
                source.ConsumeFloat() if source.ConsumeBool() else source.ConsumeIntInRange(0, 99)
            )
        case FieldDescriptor.TYPE_ENUM:
            return source.ConsumeIntInRange(0, 6)
        case FieldDescriptor.TYPE_UINT32:
            return source.ConsumeUInt(4)
        case FieldDescriptor.TYPE_UINT64:
            return source.ConsumeUInt(8)
        case other:
            raise NotImplementedError(f"fields of type {other}")


class Services:
    """Both services over fakes, in one event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        embeddings = FakeEmbeddings(small_image())
        embeddings.known.add(ID)
        queue = DecodeQueue(2, 64)
        segmenter = Segmenter(embeddings, ModelRegistry([small_decoder()]), Here(), queue)
        limits = TimeLimits(slow=60, stream=60)
        settings = DecoderSettings()
        transfers = Transfers(settings.transfer_timeout_s, settings.transient_bytes)
        self.decoder = SegmentationServicer(
            segmenter,
            asyncio.Event(),
            limits,
            settings.request_limits,
            transfers,
            sweeper=Sweeper(segmenter, SweepPool(1, queue.quiet)),
            finder=Finder(segmenter, ConceptHeads({}), Here(), queue),
        )

        self.cache = FakeCache()
        claims = ReplicaClaims(self.cache, patience=1)
        embedder = Embedder(
            self.cache,
            claims,
            EncodeSlots(4, 4),
            FakeEncoder(knows_concepts=True),
            InProcessDecoder(IMAGES),
            limits=IMAGES,
            pool=Here(),
            coding="small",
        )
        finder = ConceptFinder(
            self.cache,
            claims,
            EncodeSlots(4, 4),
            embedder,
            FakeHead(),
            pool=Here(),
            limits=SizeLimits(),
        )
        bulk = EmbeddingSettings().bulk_limits
        self.embedding = EmbeddingServicer(embedder, finder, limits=bulk, slow=60)


services = Services()
METHODS = [
    (services.decoder.Predict, segmentation_pb2.PredictRequest, "one"),
    (services.decoder.Interact, segmentation_pb2.InteractRequest, "stream"),
    (services.decoder.GenerateMasks, segmentation_pb2.GenerateMasksRequest, "written"),
    (services.embedding.Embed, embedding_pb2.EmbedRequest, "one"),
    (services.embedding.EmbedMany, embedding_pb2.EmbedManyRequest, "items"),
    (services.decoder.Find, segmentation_pb2.FindRequest, "one"),
    (services.embedding.FindConcepts, embedding_pb2.FindConceptsRequest, "answers"),
    (services.embedding.GetEmbedding, embedding_pb2.GetEmbeddingRequest, "answers"),
]


def check(data: bytes) -> None:
    source = atheris.FuzzedDataProvider(data)
    method, kind, way = METHODS[source.ConsumeIntInRange(0, len(METHODS) - 1)]
    metadata = [
        (name, source.ConsumeString(source.ConsumeIntInRange(0, 40)))
        for name in METADATA
        if source.ConsumeIntInRange(0, 7) == 0
    ]
    count = source.ConsumeIntInRange(0, 4) if way in ("stream", "items") else 1
    requests = [message(source, kind.DESCRIPTOR) for _ in range(count)]
    if way == "written":
        shrink(requests[0].options)
    services.loop.run_until_complete(
        asyncio.wait_for(call(method, way, Context(metadata, requests), requests), PATIENCE)
    )
    services.cache.entries.clear()


def shrink(options: segmentation_pb2.SweepOptions) -> None:
    """Make a valid grid so small that it takes milliseconds. The default takes seconds."""
    side = options.points_per_side if options.HasField("points_per_side") else MOST_SIDE
    if side <= MAX_POINTS_PER_SIDE:
        options.points_per_side = side % (MOST_SIDE + 1)
    if options.crop_n_layers <= MAX_CROP_LAYERS:
        options.crop_n_layers = min(options.crop_n_layers, 1)


async def call(
    method: Callable[..., Any], way: str, context: Context, requests: list[Message]
) -> None:
    async def stream() -> AsyncIterator[Message]:
        for request in requests:
            yield request

    try:
        match way:
            case "one":
                context.written.append(await method(requests[0], context))
            case "written":
                await method(requests[0], context)
            case "stream":
                await method(stream(), context)
            case _:
                given = stream() if way == "items" else requests[0]
                context.written += [response async for response in method(given, context)]
    except Ended:
        pass

    assert context.code not in BUGS, context.code
    for response in context.written:
        for status in statuses(response):
            assert status not in {code.value[0] for code in BUGS}


def statuses(response: object) -> list[int]:
    """Return the codes of the failed steps and items of a response."""
    if isinstance(response, segmentation_pb2.InteractResponse):
        return [response.answer.error.code]
    if isinstance(response, embedding_pb2.EmbedManyResponse):
        return [answer.error.code for answer in response.answers]
    if isinstance(response, segmentation_pb2.FindResponse):
        return [result.error.code for result in response.results]
    if isinstance(response, embedding_pb2.FindConceptsResponse):
        return [response.result.error.code]
    return []
