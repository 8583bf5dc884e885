"""What the embedding service does with an image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from samserve.core.cache import CacheKey
from samserve.core.embedding import Embedding, Head
from samserve.core.errors import EmbeddingNotCached, InvalidInput, ModelNotFound, ModelVersionMismatch
from samserve.core.image import FramedImage, Limits, frame_image
from samserve.core.image_id import check_image_id, image_id
from samserve.core.telemetry import StageClock
from samserve.embedding.encoder import EncoderSpec

T = TypeVar("T")


class Encoder(Protocol):
    """Something that embeds framed images."""

    async def spec(self) -> EncoderSpec: ...
    async def encode(self, spec: EncoderSpec, image: FramedImage) -> dict[str, NDArray[np.float16]]: ...


class Cache(Protocol):
    """Somewhere to keep embeddings."""

    async def head(self, key: CacheKey) -> Head | None: ...
    async def get(self, key: CacheKey) -> Embedding | None: ...
    async def put(self, key: CacheKey, embedding: Embedding) -> None: ...


@dataclass(frozen=True, slots=True)
class EmbedOrder:
    """One image to embed: its bytes, or its id alone. An empty model or version means the one served."""

    tenant: str
    model: str
    data: bytes | None
    image_id: str
    want_tensors: bool
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome; `found` is a Head unless tensors were wanted. hit: it was cached already."""

    image_id: str
    found: Head | Embedding
    hit: bool


class Embedder:
    """Embeds images, each once. Holds no state of its own but its connections."""

    def __init__(self, cache: Cache, encoder: Encoder, limits: Limits, pool: Executor) -> None:
        self._cache, self._encoder, self._limits, self._pool = cache, encoder, limits, pool

    async def embed(self, order: EmbedOrder, clock: StageClock) -> Embedded:
        """Find the embedding, or make it and store it."""
        spec = await self._encoder.spec()
        if order.model not in ("", spec.name):
            raise ModelNotFound(order.model, [spec.name])
        if order.model_version not in ("", spec.model_version):
            raise ModelVersionMismatch(order.model_version, spec.model_version)
        with clock.stage("hash"):
            name = await self._identify(order)
        key = CacheKey(order.tenant, spec.model_version, name)
        with clock.stage("lookup"):
            found = await (self._cache.get(key) if order.want_tensors else self._cache.head(key))
        if found is not None:
            return Embedded(name, found, hit=True)
        if order.data is None:
            raise EmbeddingNotCached(name)
        with clock.stage("decode"):
            image = await self._in_pool(lambda data: frame_image(data, spec.frame, self._limits), order.data)
        with clock.stage("encode"):
            tensors = await self._encoder.encode(spec, image)
        embedding = Embedding(spec.model_version, image.size, tensors)
        with clock.stage("store"):
            await self._cache.put(key, embedding)
        return Embedded(name, embedding, hit=False)

    async def _identify(self, order: EmbedOrder) -> str:
        if order.data is None:
            return check_image_id(order.image_id)
        if len(order.data) > self._limits.max_bytes:
            most = f"{self._limits.max_bytes:,}"
            raise InvalidInput("data", f"the image has {len(order.data):,} bytes, more than the {most} accepted")
        return await self._in_pool(image_id, order.data)

    async def _in_pool(self, work: Callable[[bytes], T], data: bytes) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, data)
