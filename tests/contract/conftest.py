from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc.aio
import numpy as np
import pytest
from fakes import FakeEmbeddings, HeldDecoder
from samserve.bundles.bundle import load_bundle
from samserve.bundles.names import SHIPPED
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.delayed_status import DelayedStatus
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.threads import Threads
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer, TimeLimits
from samserve.v1 import segmentation_pb2_grpc as rpc

SIZE = Size(320, 200)
QUEUE = 4


@dataclass
class Service:
    """The decoder's servicer on a real gRPC server, over fake embeddings."""

    embeddings: FakeEmbeddings
    decoder: HeldDecoder
    draining: asyncio.Event
    server: grpc.aio.Server
    address: str
    stub: rpc.SegmentationServiceStub
    model_version: str


@pytest.fixture(scope="session")
def decoder() -> MaskDecoder:
    return MaskDecoder(load_bundle(SHIPPED / "nano"), Threads(2))


@pytest.fixture
def patience() -> TimeLimits:
    return TimeLimits(slow=60, stream=60)


@pytest.fixture
async def service(decoder: MaskDecoder, patience: TimeLimits) -> AsyncIterator[Service]:
    bundle = decoder.bundle
    noise = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)
    embeddings = FakeEmbeddings(
        decoder.prepare(Embedding(bundle.model_version, SIZE, {"embedding": noise}))
    )
    draining = asyncio.Event()
    server = grpc.aio.server(interceptors=[DelayedStatus(draining)])
    with ThreadPoolExecutor(2) as pool:
        held = HeldDecoder(decoder)
        segmenter = Segmenter(embeddings, ModelRegistry([held]), pool, DecodeQueue(2, QUEUE))
        servicer = SegmentationServicer(segmenter, draining, patience)
        rpc.add_SegmentationServiceServicer_to_server(servicer, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = rpc.SegmentationServiceStub(channel)
            yield Service(embeddings, held, draining, server, address, stub, bundle.model_version)
        await server.stop(None)
