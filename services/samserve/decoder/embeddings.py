"""Where the decoder finds embeddings: this process, then Redis, then, given the bytes, the embedding service."""

from __future__ import annotations

from typing import Protocol

import grpc.aio

from samserve.core.cache import CacheKey
from samserve.core.embedding import DamagedEmbedding, Embedding, unpack
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch, Unavailable, error_of
from samserve.core.rpc import TENANT_KEY, message_limits
from samserve.decoder.resident import Resident
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc


class Cache(Protocol):
    """The shared cache, read only."""

    async def get(self, key: CacheKey) -> Embedding | None: ...


class Embedder(Protocol):
    """Makes an embedding of an image's bytes."""

    async def embed(self, tenant: str, model: str, data: bytes) -> Embedding: ...


class Embeddings:
    """Finds embeddings, and keeps in this process those it found."""

    def __init__(self, resident: Resident, cache: Cache, embedder: Embedder) -> None:
        self._resident, self._cache, self._embedder = resident, cache, embedder

    async def find(self, key: CacheKey, model: str, data: bytes | None) -> tuple[Embedding, bool]:
        """The embedding, and whether it was there. Raises EmbeddingNotCached if it was not and there is no data."""
        if (resident := self._resident.get(key)) is not None:
            return resident, True
        cached = await self._cache.get(key)
        embedding = cached
        if embedding is None:
            if data is None:
                raise EmbeddingNotCached(key.image_id)
            embedding = await self._embedder.embed(key.tenant, model, data)
            if embedding.model_version != key.model_version:
                raise ModelVersionMismatch(embedding.model_version, key.model_version)
        self._resident.put(key, embedding)
        return embedding, cached is not None


class RemoteEmbedder:
    """The embedding service, asked over gRPC."""

    def __init__(self, url: str, timeout: float, max_image_bytes: int) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=message_limits(max_image_bytes))
        self._stub = rpc.EmbeddingServiceStub(self._channel)
        self._timeout = timeout

    async def embed(self, tenant: str, model: str, data: bytes) -> Embedding:
        """Raises what the service answers, and Unavailable if it does not."""
        request = pb.EmbedRequest(data=data, model=model, include_embedding=True)
        try:
            answer = await self._stub.Embed(request, timeout=self._timeout, metadata=((TENANT_KEY, tenant),))
        except grpc.aio.AioRpcError as problem:
            raise error_of(problem, "the embedding service") from problem
        try:
            return unpack(answer.embedding.data)
        except DamagedEmbedding as problem:
            raise Unavailable(f"the embedding service sent a damaged embedding: {problem}") from problem

    async def close(self) -> None:
        await self._channel.close()
