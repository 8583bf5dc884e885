from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc.aio
import numpy as np
import pytest
from fakes import FakeEmbeddings
from samserve.core.config import BUNDLES
from samserve.core.geometry import Size
from samserve.decoder.mask_decoder import MaskDecoder
from samserve.decoder.segmenter import Segmenter
from samserve.decoder.servicer import SegmentationServicer
from samserve.models.bundle import load_bundle
from samserve.v1 import segmentation_pb2_grpc as rpc

SIZE = Size(320, 200)


@dataclass
class Service:
    """The decoder's servicer on a real gRPC server, over fake embeddings."""

    embeddings: FakeEmbeddings
    stub: rpc.SegmentationServiceStub
    model_version: str
    address: str


@pytest.fixture(scope="session")
def decoder() -> MaskDecoder:
    return MaskDecoder(load_bundle(BUNDLES / "nano"), threads=2)


@pytest.fixture
async def service(decoder: MaskDecoder) -> AsyncIterator[Service]:
    bundle = decoder.bundle
    noise = np.random.default_rng(0).normal(size=(256, 64, 64)).astype(np.float16)
    embeddings = FakeEmbeddings(bundle.model_version, SIZE, {"embedding": noise})
    server = grpc.aio.server()
    with ThreadPoolExecutor(2) as pool:
        servicer = SegmentationServicer(Segmenter(embeddings, decoder, pool), bundle.low_res)
        rpc.add_SegmentationServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield Service(embeddings, rpc.SegmentationServiceStub(channel), bundle.model_version, address)
        await server.stop(None)
