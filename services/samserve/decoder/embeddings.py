"""Where the decoder finds embeddings: this process, then Redis, then, given the bytes, the embedding service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import grpc.aio

from samserve.core.cache import CacheKey
from samserve.core.embedding import DamagedEmbedding, Embedding, unpack
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch, Unavailable, error_of
from samserve.core.rpc import TENANT_KEY, message_limits
from samserve.decoder.resident import Resident
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from samserve.v1 import types_pb2 as types


@dataclass(frozen=True, slots=True)
class Found:
    """An embedding; hit: it was there already; remote_ms: else, the stages of the embedding service."""

    embedding: Embedding
    hit: bool
    remote_ms: dict[str, float]


class Cache(Protocol):
    """The shared cache, read only."""

    async def get(self, key: CacheKey) -> Embedding | None: ...


class Embedder(Protocol):
    """Makes an embedding of an image's bytes."""

    async def embed(self, tenant: str, model: str, data: bytes) -> Found: ...


class Embeddings:
    """Finds embeddings, and keeps in this process those it found."""

    def __init__(self, resident: Resident, cache: Cache, embedder: Embedder) -> None:
        self._resident, self._cache, self._embedder = resident, cache, embedder

    async def find(self, key: CacheKey, model: str, data: bytes | None) -> Found:
        """Find the embedding, or have it made. Raises EmbeddingNotCached if it is not there and there is no data."""
        if (resident := self._resident.get(key)) is not None:
            return Found(resident, hit=True, remote_ms={})
        if (cached := await self._cache.get(key)) is not None:
            found = Found(cached, hit=True, remote_ms={})
        elif data is not None:
            found = await self._embedder.embed(key.tenant, model, data)
        else:
            raise EmbeddingNotCached(key.image_id)
        if found.embedding.model_version != key.model_version:
            raise ModelVersionMismatch(found.embedding.model_version, key.model_version)
        self._resident.put(key, found.embedding)
        return found


class RemoteEmbedder:
    """The embedding service, asked over gRPC."""

    def __init__(self, url: str, timeout: float, max_image_bytes: int) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=message_limits(max_image_bytes))
        self._stub = rpc.EmbeddingServiceStub(self._channel)
        self._timeout = timeout

    async def embed(self, tenant: str, model: str, data: bytes) -> Found:
        """Send the bytes, get the tensors. Raises what the service answers, and Unavailable if it does not."""
        request = pb.EmbedRequest(data=data, model=model, include_embedding=True)
        try:
            answer = await self._stub.Embed(request, timeout=self._timeout, metadata=((TENANT_KEY, tenant),))
        except grpc.aio.AioRpcError as problem:
            raise error_of(problem, "the embedding service") from problem
        try:
            embedding = unpack(answer.embedding.data)
        except DamagedEmbedding as problem:
            raise Unavailable(f"the embedding service sent a damaged embedding: {problem}") from problem
        remote = {time.stage: time.milliseconds for time in answer.timings}
        return Found(embedding, hit=answer.cache == types.CACHE_STATUS_HIT, remote_ms=remote)

    async def close(self) -> None:
        await self._channel.close()
