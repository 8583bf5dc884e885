"""Finds images: prepared in this process, in Redis, or through the embedding service."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Protocol

from samserve.core.cache_status import CacheStatus
from samserve.core.crop import Crop
from samserve.core.embedding import (
    DEFAULT_LIMITS,
    Embedding,
    EmbeddingContract,
    SizeLimits,
)
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch, Unavailable
from samserve.core.image_request import ImageRequest
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_lru import ImageLru
from samserve.decoder.registry import ServedModel
from samserve.decoder.remote_embedder import RemoteEmbedding
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.deletions import Generation


@dataclass(frozen=True, slots=True)
class SourcedImage:
    """An image that is ready for prompts.

    Attributes:
        image: With what prompts share prepared.
        status: Where its embedding came from.
        remote_ms: The embedding service's stages in milliseconds; empty if it was not called.
    """

    image: ReadyImage
    status: CacheStatus
    remote_ms: dict[str, float]


@dataclass(slots=True)
class Preparation:
    """The work of preparing an image of a generation, its callers, and whether to keep it."""

    work: Future[ReadyImage]
    generation: Generation | None
    callers: int = 0
    keep: bool = False


class Cache(Protocol):
    """The embeddings that all services share, read only."""

    async def read(
        self, key: CacheKey, contract: EmbeddingContract
    ) -> tuple[Embedding | None, Generation | None]: ...


class Embedder(Protocol):
    """Embeds images."""

    async def embed(self, request: ImageRequest) -> RemoteEmbedding: ...


class ImageSource:
    """Finds embeddings, prepares them, and keeps the prepared images."""

    def __init__(
        self,
        images: ImageLru,
        cache: Cache,
        embedder: Embedder,
        pool: Executor,
        queue: DecodeQueue,
        limits: SizeLimits = DEFAULT_LIMITS,
    ) -> None:
        """Create a source.

        Args:
            images: Keeps prepared images in this process.
            cache: Shared by all services.
            embedder: Makes the embedding of an image that is nowhere else.
            pool: Threads that prepare images.
            queue: Bounds the work for the pool.
            limits: On the size of an image whose embedding is used.
        """
        self._images = images
        self._cache = cache
        self._embedder = embedder
        self._pool = pool
        self._queue = queue
        self._limits = limits
        self._preparing: dict[CacheKey, Preparation] = {}
        self._served: dict[str, str] = {}

    def version_served(self, model: ServedModel) -> str:
        """Return the version to look for if a request names none.

        That is the version of the embedding service's last answer, which may run another variant
        of the model; before the first answer it is the bundle's.
        """
        return self._served.get(model.name, model.model_version)

    async def find(
        self,
        key: CacheKey,
        model: ServedModel,
        data: bytes | None,
        crop: Crop | None = None,
    ) -> SourcedImage:
        """Find the image, or have it embedded by any version of the model.

        A call that waits for the embedding service holds no place in the queue.

        Args:
            key: Of the embedding that is looked for.
            model: That the embedding is for.
            data: The image's bytes, or None if they were not sent.
            crop: Part of the image that the key is of. It is used once, so it is not kept.

        Raises:
            EmbeddingNotCached: The image is unknown, and its bytes were not sent.
            ModelVersionMismatch: It was embedded by none of the model's versions.
            Unavailable: The embedding service sent an embedding of another kind.
            Overloaded: The queue is full.
        """
        ready = self._images.get(key)
        if ready is not None:
            return SourcedImage(ready, CacheStatus.HIT, remote_ms={})

        with self._queue.place():
            cached, generation = await self._cache.read(key, model.contract(self._limits))
        if cached is not None:
            image = await self._prepare(key, model, cached, generation, keep=crop is None)
            return SourcedImage(image, CacheStatus.HIT, remote_ms={})

        if data is None:
            raise EmbeddingNotCached(key.image_id)
        remote = await self._embedder.embed(
            ImageRequest(key.owner, model.name, data, expected_image_id=key.image_id, crop=crop)
        )
        version = remote.embedding.model_version
        if version in model.versions:
            self._served[model.name] = version

        image = await self._prepare(key, model, remote.embedding, generation, keep=crop is None)
        return SourcedImage(image, remote.status, remote.remote_ms)

    async def _prepare(
        self,
        key: CacheKey,
        model: ServedModel,
        embedding: Embedding,
        generation: Generation | None,
        *,
        keep: bool,
    ) -> ReadyImage:
        """Prepare the image, once for concurrent calls.

        The work is dropped if all its callers leave before it has begun.
        """
        version = embedding.model_version
        if version not in model.versions:
            raise ModelVersionMismatch(version, key.model_version)

        # A cached embedding has passed this check already; one from the service has not.
        shapes = {name: tensor.shape for name, tensor in embedding.tensors.items()}
        problem = model.contract(self._limits).problem(embedding.size, shapes)
        if problem:
            raise Unavailable(f"the embedding service sent an embedding of {problem}")

        key = replace(key, model_version=version)
        preparation = self._preparing.get(key) or self._begin(key, model, embedding, generation)

        preparation.callers += 1
        preparation.keep |= keep
        try:
            return await asyncio.shield(asyncio.wrap_future(preparation.work))
        finally:
            preparation.callers -= 1
            if not preparation.callers and preparation.work.cancel():
                self._preparing.pop(key)

    def _begin(
        self,
        key: CacheKey,
        model: ServedModel,
        embedding: Embedding,
        generation: Generation | None,
    ) -> Preparation:
        work = self._queue.submit(self._pool, model.decoder.prepare, embedding)
        preparation = self._preparing[key] = Preparation(work, generation)

        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end, key, preparation))
        return preparation

    def _end(self, key: CacheKey, preparation: Preparation) -> None:
        """Keep the image, although all its callers may have left."""
        if self._preparing.get(key) is preparation:
            self._preparing.pop(key)
        work = preparation.work
        if preparation.keep and not work.cancelled() and work.exception() is None:
            self._images.put(key, work.result(), preparation.generation)
