"""What the embedding service does with an image."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from samserve.codec.packed import pack
from samserve.codec.tensors import Coding
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    InvalidInput,
    ModelVersionMismatch,
)
from samserve.core.image import FramedImage, Limits, frame_image
from samserve.core.image_id import check_expected, check_image_id, image_id
from samserve.embedding.admission import EncodeSlots, Priority
from samserve.embedding.encoder import EncoderSpec
from samserve.embedding.single_flight import Begin, SingleFlight
from samserve.infra.cache import CacheKey
from samserve.infra.logs import bind_image_id
from samserve.infra.metrics import EMBEDDED
from samserve.infra.stages import StageClock

T = TypeVar("T")


class Encoder(Protocol):
    """Something that embeds framed images."""

    async def spec(self, model: str) -> EncoderSpec: ...
    async def encode(
        self, spec: EncoderSpec, image: FramedImage, priority: Priority, seconds: float
    ) -> dict[str, NDArray[np.float16]]: ...


class Cache(Protocol):
    """Somewhere to keep embeddings."""

    async def head(self, key: CacheKey) -> EmbeddingHeader | None: ...
    async def get(self, key: CacheKey) -> Embedding | None: ...
    async def put(self, key: CacheKey, embedding: Embedding) -> None: ...


@dataclass(frozen=True, slots=True)
class EmbedOrder:
    """One image to embed: its bytes, or its id alone. An empty model means the default one, an empty version the one
    served.

    expected_image_id: what the caller takes the image's id to be; empty: nothing in particular. deadline: of the
    event loop's clock, seconds.
    """

    tenant: str
    model: str
    data: bytes | None
    image_id: str
    expected_image_id: str
    want_tensors: bool
    model_version: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcome; `found` may be a Head unless tensors were wanted."""

    image_id: str
    found: EmbeddingHeader | Embedding
    status: CacheStatus


class Embedder:
    """Embeds images, each once. Holds no state of its own: whose turn it is, `turns` knows, and how many are under way,
    `admission`.
    """

    def __init__(
        self,
        cache: Cache,
        turns: SingleFlight,
        admission: EncodeSlots,
        encoder: Encoder,
        limits: Limits,
        pool: Executor,
        coding: Coding = "small",
    ) -> None:
        self._cache, self._turns, self._admission, self._encoder = cache, turns, admission, encoder
        self._limits, self._pool, self._coding = limits, pool, coding

    async def embed(self, order: EmbedOrder, clock: StageClock) -> Embedded:
        """Find the embedding, or make it and store it."""
        spec = await self._encoder.spec(order.model)
        if order.model_version not in ("", spec.model_version):
            raise ModelVersionMismatch(order.model_version, spec.model_version)
        with clock.stage("hash"):
            name = await self._identify(order)
        key = CacheKey(order.tenant, spec.model_version, name)
        try:
            async with asyncio.timeout_at(order.deadline):
                found, status = await self._find_or_make(key, spec, order, clock)
        except TimeoutError as late:
            raise DeadlinePassed(clock.latest) from late
        EMBEDDED.labels(spec.name, status.value).inc()
        return Embedded(name, found, status)

    async def _find_or_make(
        self, key: CacheKey, spec: EncoderSpec, order: EmbedOrder, clock: StageClock
    ) -> tuple[EmbeddingHeader | Embedding, CacheStatus]:
        data, status = order.data, CacheStatus.HIT
        while True:
            with clock.stage("lookup"):
                found = await (
                    self._cache.get(key) if order.want_tensors else self._cache.head(key)
                )
            if found is not None:
                return found, status
            if data is None:
                raise EmbeddingNotCached(key.image_id)
            make = partial(self._make, key, spec, data, order.priority, clock)
            made = await self._turns.take(key, make, order.deadline, clock)
            if made is not None:
                return made.embedding, made.status
            status = (
                CacheStatus.COALESCED
            )  # by another replica: it is there, unless it has gone again already

    async def _make(
        self,
        key: CacheKey,
        spec: EncoderSpec,
        data: bytes,
        priority: Priority,
        clock: StageClock,
        begin: Begin,
    ) -> Embedding:
        with clock.stage("queue"):
            slot = await self._admission.slot(priority)
        with slot:
            with clock.stage("decode"):
                image = await self._in_pool(
                    lambda data: frame_image(data, spec.frame, self._limits), data
                )
            seconds = begin()
            with clock.stage("encode"):
                tensors = await self._encoder.encode(spec, image, priority, seconds)
        embedding = Embedding(spec.model_version, image.size, tensors)
        with clock.stage("store"):
            packed = await asyncio.get_running_loop().run_in_executor(
                self._pool, pack, embedding, self._coding
            )
            embedding = replace(
                embedding, packed=packed
            )  # once, for the cache and for whoever wants it sent
            await self._cache.put(key, embedding)
        return embedding

    async def _identify(self, order: EmbedOrder) -> str:
        if order.data is None:
            name = check_image_id(order.image_id)
        elif len(order.data) > self._limits.max_bytes:
            most = f"{self._limits.max_bytes:,}"
            raise InvalidInput(
                "data", f"the image has {len(order.data):,} bytes, more than the {most} accepted"
            )
        else:
            name = await self._in_pool(image_id, order.data)
        bind_image_id(name)
        check_expected(name, order.expected_image_id)
        return name

    async def _in_pool(self, work: Callable[[bytes], T], data: bytes) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, data)
