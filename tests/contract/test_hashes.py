"""An image's bytes are hashed once in each process, and never on an event loop."""

import hashlib
import io
import os
import threading
from types import SimpleNamespace

import grpc.aio
import pytest
from contract.calls import FIRST, prompt
from contract.conftest import Path
from PIL import Image
from samserve.codec.packed import unpack
from samserve.core.embedding import Embedding
from samserve.core.image_id import image_id
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types


@pytest.fixture
def image() -> bytes:
    """A PNG that no test has sent before."""
    out = io.BytesIO()
    Image.frombytes("L", (320, 200), os.urandom(320 * 200)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def hashed_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pools whose threads have hashed an image: the decoder's, or the embedding service's."""
    pools: list[str] = []

    def sha256(data: bytes) -> object:
        pools.append(threading.current_thread().name.split("_")[0])
        return hashlib.sha256(data)

    monkeypatch.setattr("samserve.core.image_id.hashlib", SimpleNamespace(sha256=sha256))
    return pools


async def test_predict_with_bytes_hashes_once_in_each_service(
    path: Path, hashed_by: list[str], image: bytes
) -> None:
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)

        request = pb.PredictRequest(data=image, prompts=[prompt(FIRST)])
        assert (await stub.Predict(request)).cache == types.CACHE_STATUS_MISS
        assert hashed_by == ["decode", "image"]

        # The decoder has prepared the image by now, and does not call the embedding service.
        assert (await stub.Predict(request)).cache == types.CACHE_STATUS_HIT
        assert hashed_by == ["decode", "image", "decode"]


async def test_predict_by_reference_hashes_nothing(
    path: Path, hashed_by: list[str], image: bytes
) -> None:
    async with grpc.aio.insecure_channel(path.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        reference = (await stub.Embed(embedding_pb2.EmbedRequest(data=image))).image
    assert reference.image_id == image_id(image)
    hashed_by.clear()

    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        assert (
            await stub.Predict(pb.PredictRequest(ref=reference, prompts=[prompt(FIRST)]))
        ).results
    assert hashed_by == []


async def test_an_embedding_is_not_unpacked_on_the_event_loop(
    path: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def unpack_here(packed: bytes) -> Embedding:
        threads.append(threading.current_thread())
        return unpack(packed)

    monkeypatch.setattr("samserve.decoder.remote_embedder.unpack", unpack_here)
    async with grpc.aio.insecure_channel(path.decoder) as channel:
        stub = segmentation_pb2_grpc.SegmentationServiceStub(channel)
        await stub.Predict(pb.PredictRequest(data=image, prompts=[prompt(FIRST)]))
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
