"""Tenants: nobody names one past the edge, and nobody meets another's images."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from contract.calls import FIRST, opening, prompt
from contract.conftest import Path
from PIL import Image
from samserve.client import AsyncClient, CachedImage, Click
from samserve.core.errors import EmbeddingNotCached, Unauthenticated
from samserve.infra.redis_link import RedisLink
from samserve.v1 import embedding_pb2, embedding_pb2_grpc, segmentation_pb2, segmentation_pb2_grpc
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types

EDGE = "the-edge's-own-secret"
CLICK = [Click(100, 50)]


@pytest.fixture
def edge_secret() -> str:
    return EDGE


@pytest.fixture
def photo() -> bytes:
    """A PNG that no test has sent before."""
    out = io.BytesIO()
    Image.frombytes("L", (320, 200), os.urandom(320 * 200)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
async def edge(path: Path) -> AsyncIterator[AsyncClient]:
    """A client that is let through, as the edge's callers are."""
    metadata = [("samserve-edge", EDGE)]
    async with AsyncClient(path.decoder, path.embedding, metadata=metadata) as client:
        yield client


async def refusal(call: Any) -> grpc.StatusCode:
    """Return the code that a call of any kind ends with."""
    try:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return await call.code()


@pytest.mark.parametrize("sent", [(), (("samserve-edge", "guessed-guessed-guessed"),)])
async def test_a_tenant_that_is_forged_past_the_edge_is_refused(
    path: Path, edge: AsyncClient, photo: bytes, sent: tuple[tuple[str, str], ...]
) -> None:
    known = await edge.using(tenant="acme").embed(photo)
    metadata = (("samserve-tenant", "acme"), *sent)
    async with (
        grpc.aio.insecure_channel(path.decoder) as decoder,
        grpc.aio.insecure_channel(path.embedding) as embedding,
    ):
        segmentation = segmentation_pb2_grpc.SegmentationServiceStub(decoder)
        embedder = embedding_pb2_grpc.EmbeddingServiceStub(embedding)
        ref = types.ImageRef(image_id=known.image_id)
        predict = pb.PredictRequest(ref=ref, prompts=[prompt(FIRST)])
        item = embedding_pb2.EmbedManyRequest.Item(id=1, data=photo)
        batch = embedding_pb2.EmbedManyRequest(items=[item])
        get = embedding_pb2.GetEmbeddingRequest(image=ref)
        delete = embedding_pb2.DeleteEmbeddingRequest(image=ref)

        everything = pb.GenerateMasksRequest(ref=ref)
        calls = [
            segmentation.Predict(predict, metadata=metadata, timeout=30),
            segmentation.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=30),
            segmentation.Interact([opening(ref=ref)], metadata=metadata, timeout=30),
            segmentation.GenerateMasks(everything, metadata=metadata, timeout=30),
            embedder.Embed(embedding_pb2.EmbedRequest(data=photo), metadata=metadata, timeout=30),
            embedder.EmbedMany([batch], metadata=metadata, timeout=30),
            embedder.GetEmbedding(get, metadata=metadata, timeout=30),
            embedder.DeleteEmbedding(delete, metadata=metadata, timeout=30),
        ]
        codes = [await refusal(call) for call in calls]
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * len(calls)

    async with AsyncClient(path.decoder, path.embedding, metadata=sent) as stranger:
        with pytest.raises(Unauthenticated):
            await stranger.using(tenant="acme").segment(CachedImage(known.image_id), CLICK)


async def test_an_image_of_another_tenant_is_as_unknown_as_any(
    path: Path, edge: AsyncClient, photo: bytes
) -> None:
    acme, other = edge.using(tenant="acme"), edge.using(tenant="other")
    image = CachedImage((await acme.segment(photo, CLICK)).image_id)
    unknown = CachedImage("ab" * 32)

    async def failures(named: CachedImage) -> list[str]:
        calls = (
            other.embed(named),
            other.segment(named, CLICK),
            other.embedding(named),
            other.generate_masks(named),
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, EmbeddingNotCached) for answer in answers)
        return [str(answer).replace(named.image_id, "ID") for answer in answers]

    assert await failures(image) == await failures(unknown)
    assert await other.delete(image) is await other.delete(unknown) is False
    await acme.segment(image, CLICK)


async def test_the_same_image_of_two_tenants_is_encoded_once_for_each(
    path: Path, edge: AsyncClient, photo: bytes
) -> None:
    acme, other = edge.using(tenant="acme"), edge.using(tenant="other")
    answers = await asyncio.gather(*(each.segment(photo, CLICK) for each in (acme, other) * 3))
    assert path.triton.inferred == 2
    assert {answer.image_id for answer in answers} == {answers[0].image_id}
    assert len(path.images) == 2


@pytest.mark.parametrize("service", ["SegmentationService", "EmbeddingService"])
async def test_no_call_at_all_is_answered_past_the_edge(path: Path, service: str) -> None:
    """Also those that will be added."""
    file = segmentation_pb2.DESCRIPTOR if service[0] == "S" else embedding_pb2.DESCRIPTOR
    at = path.decoder if service[0] == "S" else path.embedding
    codes = {}
    async with grpc.aio.insecure_channel(at) as channel:
        for method in file.services_by_name[service].methods:
            kinds = ["stream" if each else "unary" for each in streaming(method)]
            call = getattr(channel, "_".join(kinds))(f"/samserve.v1.{service}/{method.name}")
            request = [b""] if method.client_streaming else b""
            codes[method.name] = await refusal(call(request, timeout=30))
    assert len(codes) > 4
    assert set(codes.values()) == {grpc.StatusCode.UNAUTHENTICATED}, codes


def streaming(method: Any) -> tuple[bool, bool]:
    return method.client_streaming, method.server_streaming


async def test_an_image_of_another_tenant_costs_the_same_work_as_an_unknown_one(
    edge: AsyncClient, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a guesser could time: loadtest/bench/tenants.py does, over thousands of calls."""
    image = CachedImage((await edge.using(tenant="acme").segment(photo, CLICK)).image_id)
    asked: list[tuple[str, list[str], list[object]]] = []
    send = RedisLink.call

    async def noted(link: RedisLink, operation: str, *commands: Any) -> list[Any]:
        answers = await send(link, operation, *commands)
        asked.append((operation, [command[0] for command in commands], answers))
        return answers

    monkeypatch.setattr(RedisLink, "call", noted)
    other, work = edge.using(tenant="other"), []
    for named in (image, CachedImage(os.urandom(32).hex())):
        asked.clear()
        for call in (other.embed(named), other.segment(named, CLICK), other.embedding(named)):
            with pytest.raises(EmbeddingNotCached):
                await call
        work.append(list(asked))
    assert work[0] == work[1]
    assert work[0]
