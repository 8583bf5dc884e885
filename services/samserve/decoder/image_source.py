"""Where the decoder finds images: ready in this process, in Redis, or, given the bytes, at the embedding service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import grpc.aio

from samserve.codec.packed import DamagedEmbedding, unpack
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch, Unavailable
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.tracing import Kind, span
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.wire.metadata import (
    EVERY_SERVER,
    TENANT_KEY,
    cache_status_from_proto,
    call_options,
    message_limits,
)
from samserve.wire.request_id import request_id_here
from samserve.wire.status import error_of


@dataclass(frozen=True, slots=True)
class Found:
    """An image ready for prompts; remote_ms: the embedding service's stages, if it was asked."""

    image: ReadyImage
    status: CacheStatus
    remote_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding from elsewhere; status and remote_ms as in Found."""

    embedding: Embedding
    status: CacheStatus
    remote_ms: dict[str, float]


class Cache(Protocol):
    """The shared cache, read only."""

    async def get(self, key: CacheKey) -> Embedding | None: ...


class Embedder(Protocol):
    """Makes an embedding of an image's bytes."""

    async def embed(self, tenant: str, model: str, data: bytes) -> Embedded: ...


class ImageSource:
    """Finds embeddings, has them prepared, and keeps the images ready in this process."""

    def __init__(
        self,
        resident: ImageLru,
        cache: Cache,
        embedder: Embedder,
        prepare: Callable[[Embedding], Awaitable[ReadyImage]],
        admission: DecodeQueue,
    ) -> None:
        self._resident, self._cache, self._embedder, self._prepare = (
            resident,
            cache,
            embedder,
            prepare,
        )
        self._admission = admission
        self._preparing: dict[CacheKey, asyncio.Future[ReadyImage]] = {}
        self._served: dict[str, str] = {}

    def version_served(self, model: str, expected: str) -> str:
        """The version that the embedding service answered with last, until it has the one that is expected: variants
        of a model share its decoder, so that the encoder's can be another one.
        """
        return self._served.get(model, expected)

    async def find(
        self, key: CacheKey, model: str, versions: frozenset[str], data: bytes | None
    ) -> Found:
        """Find the image, or have it embedded by any of the model's versions. Raises EmbeddingNotCached if it is not
        there and there is no data, ModelVersionMismatch if it was embedded by none of the versions, Overloaded if too
        many wait here. Who waits for the embedding service is not in the way of others, and has no place here.
        """
        if (ready := self._resident.get(key)) is not None:
            return Found(ready, CacheStatus.HIT, remote_ms={})
        with self._admission.place():
            if (cached := await self._cache.get(key)) is not None:
                return await self._found(
                    key, versions, Embedded(cached, CacheStatus.HIT, remote_ms={})
                )
        if data is None:
            raise EmbeddingNotCached(key.image_id)
        embedded = await self._embedder.embed(key.tenant, model, data)
        if embedded.embedding.model_version in versions:
            self._served[model] = embedded.embedding.model_version
        with self._admission.place():
            return await self._found(key, versions, embedded)

    async def _found(self, key: CacheKey, versions: frozenset[str], embedded: Embedded) -> Found:
        version = embedded.embedding.model_version
        if version not in versions:
            raise ModelVersionMismatch(version, key.model_version)
        image = await self._made_ready(replace(key, model_version=version), embedded.embedding)
        return Found(image, embedded.status, embedded.remote_ms)

    async def _made_ready(self, key: CacheKey, embedding: Embedding) -> ReadyImage:
        """The image prepared, once for all calls that want it now; a call that is cancelled leaves it to the others."""
        if key not in self._preparing:
            self._preparing[key] = asyncio.ensure_future(self._prepare(embedding))
            self._preparing[key].add_done_callback(lambda _: self._preparing.pop(key))
        image = await asyncio.shield(self._preparing[key])
        self._resident.put(key, image)
        return image


class RemoteEmbedder:
    """The embedding service, asked over gRPC."""

    def __init__(self, url: str, timeout: float, max_image_bytes: int) -> None:
        self._channel = grpc.aio.insecure_channel(
            url, options=[*message_limits(max_image_bytes), EVERY_SERVER]
        )
        self._stub = rpc.EmbeddingServiceStub(self._channel)
        self._timeout = timeout

    async def embed(self, tenant: str, model: str, data: bytes) -> Embedded:
        """Send the bytes, get the tensors. Raises what the service answers, and Unavailable if it does not."""
        request = pb.EmbedRequest(data=data, model=model, include_embedding=True)
        metadata = ((TENANT_KEY, tenant), *request_id_here())
        try:
            with span("Embed", Kind.CLIENT):
                answer = await self._stub.Embed(request, **call_options(self._timeout, metadata))
        except grpc.aio.AioRpcError as problem:
            raise error_of(problem, "the embedding service") from problem
        try:
            embedding = unpack(answer.embedding.data)
        except DamagedEmbedding as problem:
            raise Unavailable(
                f"the embedding service sent a damaged embedding: {problem}"
            ) from problem
        remote = {time.stage: time.milliseconds for time in answer.timings}
        return Embedded(embedding, cache_status_from_proto(answer.cache), remote)

    async def close(self) -> None:
        await self._channel.close()
