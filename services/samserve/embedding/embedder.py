"""Embeds images, each of them once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from samserve.codec.packed import pack
from samserve.codec.tensors import Coding
from samserve.core.arrays import Halves
from samserve.core.cache_status import CacheStatus
from samserve.core.crop import Crop
from samserve.core.embedding import (
    Embedding,
    EmbeddingContract,
    EmbeddingHeader,
    SizeLimits,
)
from samserve.core.errors import (
    DeadlinePassed,
    EmbeddingNotCached,
    ModelVersionMismatch,
    QuotaSpent,
    Unavailable,
)
from samserve.core.family import TRUNK
from samserve.core.geometry import Frame
from samserve.core.image import FramedImage, Limits
from samserve.core.image_id import image_id as hash_image
from samserve.core.image_request import ImageRequest
from samserve.embedding.admission import EncodeSlots, Priority
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.encoder import EncoderSpec
from samserve.embedding.single_flight import Flight, SingleFlight
from samserve.infra.cache import CacheKey, trunk_key
from samserve.infra.deletions import Generation
from samserve.infra.logs import bind_image_id
from samserve.infra.metrics import EMBEDDED
from samserve.infra.pool import run_in_pool
from samserve.infra.quotas import Quota, Quotas
from samserve.infra.stages import StageClock

Found = TypeVar("Found", EmbeddingHeader, Embedding)
LookUp = Callable[[CacheKey, EmbeddingContract], Awaitable[Found | None]]


class Encoder(Protocol):
    """Encodes framed images."""

    async def spec(self, model: str) -> EncoderSpec: ...
    async def encode(
        self, spec: EncoderSpec, image: FramedImage, priority: Priority, seconds: float
    ) -> dict[str, Halves]: ...


class ImageDecoder(Protocol):
    """Decodes images into a model's frame."""

    async def frame(self, data: bytes, frame: Frame, crop: Crop | None) -> FramedImage: ...


class Cache(Protocol):
    """Stores embeddings."""

    async def head(self, key: CacheKey, contract: EmbeddingContract) -> EmbeddingHeader | None: ...
    async def get(self, key: CacheKey, contract: EmbeddingContract) -> Embedding | None: ...
    async def generation(self, key: CacheKey) -> Generation | None: ...
    async def put(
        self, key: CacheKey, embedding: Embedding, generation: Generation | None
    ) -> None: ...
    async def delete(self, key: CacheKey) -> bool: ...
    async def delete_image(self, owner: str, image_id: str) -> int: ...
    async def delete_owner(self, owner: str) -> int: ...


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """An embedded image, without its tensors."""

    image_id: str
    header: EmbeddingHeader
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class FetchResult:
    """An embedded image with its tensors, which are packed as well."""

    image_id: str
    embedding: Embedding
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class TrunkResult:
    """An image's trunk, one tensor [C, G, G], and where it came from."""

    trunk: Embedding
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What one run of the encoder gives."""

    embedding: Embedding
    trunk: Embedding | None


@dataclass(frozen=True, slots=True)
class Job:
    """One checked request; `deadline` is by the event loop's clock, in seconds.

    `wanted` is the entry that is looked for: the embedding's, whose key is `key`, or the trunk's.
    """

    key: CacheKey
    wanted: CacheKey
    spec: EncoderSpec
    data: bytes | None
    crop: Crop | None
    priority: Priority
    deadline: float
    clock: StageClock


class Embedder:
    """Finds embeddings in the cache, and encodes those that are missing.

    `_find_or_encode` and `_encode` hold the order of events. Up to step 5 the work stops when all
    its callers leave. Each step is timed as a stage of the request's clock.
    """

    def __init__(
        self,
        cache: Cache,
        claims: ReplicaClaims,
        slots: EncodeSlots,
        encoder: Encoder,
        decoder: ImageDecoder,
        *,
        limits: Limits,
        pool: Executor,
        coding: Coding,
        quotas: Quotas | None = None,
    ) -> None:
        """Create an embedder.

        Args:
            cache: Shared by all replicas.
            claims: Shared by all replicas, like the cache.
            slots: Bound how many images are decoded and encoded at once.
            encoder: Runs the models.
            decoder: Decodes and resizes images.
            limits: Bound the images that are accepted.
            pool: Threads that hash and pack.
            coding: How new embeddings are packed.
            quotas: Of the tenants.
        """
        self._cache = cache
        self._claims = claims
        self._slots = slots
        self._encoder = encoder
        self._decoder = decoder
        self._limits = limits
        self._pool = pool
        self._coding = coding
        self._quotas = quotas or Quotas()
        self._flights: SingleFlight[CacheKey, _Encoded | None] = SingleFlight()

    async def embed(
        self,
        request: ImageRequest,
        clock: StageClock,
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
    ) -> EmbedResult:
        """Make sure that the image's embedding is in the cache.

        Args:
            request: The image; without its bytes it must have been embedded before.
            clock: Receives the stages.
            priority: Order in the queue.
            deadline: When the caller stops waiting, by the event loop's clock in seconds.

        Raises:
            InvalidInput: The image is invalid.
            ModelNotFound: No such model is served.
            ModelVersionMismatch: The request names a version that is not served.
            EmbeddingNotCached: The image is unknown, and its bytes were not sent.
            Overloaded: The queue is full.
            Unavailable: The encoder is unavailable.
            DeadlinePassed: The deadline passed.
        """
        job = await self._check(request, clock, priority, deadline)
        embedding, status = await self._in_time(job, self._cache.head)
        header = EmbeddingHeader(embedding.model_version, embedding.size)
        return EmbedResult(job.key.image_id, header, status)

    async def fetch(
        self,
        request: ImageRequest,
        clock: StageClock,
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
    ) -> FetchResult:
        """Return the image's embedding with its tensors. Arguments and errors as of `embed`."""
        job = await self._check(request, clock, priority, deadline)
        embedding, status = await self._in_time(job, self._cache.get)
        return FetchResult(job.key.image_id, embedding, status)

    async def identify(
        self, request: ImageRequest, clock: StageClock, *, deadline: float = math.inf
    ) -> Job:
        """Return the checked request, for `trunk`. Arguments and errors as of `embed`."""
        return await self._check(request, clock, Priority.INTERACTIVE, deadline)

    async def trunk(self, job: Job) -> TrunkResult:
        """Return an image's trunk, for a model that has one. Errors as of `embed`."""
        job = replace(job, wanted=trunk_key(job.key))
        trunk, status = await self._in_time(job, self._cache.get)
        return TrunkResult(trunk, status)

    async def delete(self, request: ImageRequest) -> bool:
        """Delete the image's embedding, of the version that is served, from the cache.

        Its trunk is deleted, too. What was found of concepts expires by itself.

        Returns:
            Whether there was one.

        Raises:
            InvalidInput: The image's id is invalid.
            ModelNotFound: No such model is served.
            Unavailable: The cache did not answer.
        """
        spec = await self._encoder.spec(request.model)
        image_id = await request.identify(self._hash)
        key = CacheKey(request.owner, spec.model_version, image_id)
        if spec.trunk:
            await self._cache.delete(trunk_key(key))
        return await self._cache.delete(key)

    async def delete_image(self, request: ImageRequest) -> int:
        """Delete every trace of an image, and return how many embeddings were cached.

        Raises:
            InvalidInput: The image's id is invalid.
            Unavailable: The cache did not answer.
        """
        return await self._cache.delete_image(request.owner, await request.identify(self._hash))

    async def delete_owner(self, owner: str) -> int:
        """Delete every trace of an owner. Returns and raises as `delete_image`."""
        return await self._cache.delete_owner(owner)

    async def _check(
        self, request: ImageRequest, clock: StageClock, priority: Priority, deadline: float
    ) -> Job:
        """Resolve the model, and identify the image."""
        spec = await self._encoder.spec(request.model)
        if request.model_version not in ("", spec.model_version):
            raise ModelVersionMismatch(request.model_version, spec.model_version)

        with clock.stage("hash"):
            request.check_size(self._limits.max_bytes)
            image_id, whole_id = await request.identify_whole(self._hash)
        bind_image_id(image_id)

        key = CacheKey(request.owner, spec.model_version, image_id, whole_id=whole_id)
        return Job(key, key, spec, request.data, request.crop, priority, deadline, clock)

    async def _hash(self, data: bytes) -> str:
        return await run_in_pool(self._pool, hash_image, data)

    async def _in_time(
        self, job: Job, look_up: LookUp[Found]
    ) -> tuple[Found | Embedding, CacheStatus]:
        """Find or encode within the job's deadline, and count the outcome."""
        try:
            async with asyncio.timeout_at(job.deadline):
                embedding, status = await self._find_or_encode(job, look_up)
        except TimeoutError as late:
            raise DeadlinePassed(job.clock.latest) from late
        EMBEDDED.labels(job.spec.name, status.value).inc()
        return embedding, status

    async def _find_or_encode(
        self, job: Job, look_up: LookUp[Found]
    ) -> tuple[Found | Embedding, CacheStatus]:
        """Return what `look_up` finds, or the new embedding."""
        clock = job.clock
        status_if_found = CacheStatus.HIT
        while True:
            # 1. Look in the cache.
            with clock.stage("lookup"):
                embedding = await look_up(job.wanted, self._contract(job))
            if embedding is not None:
                return embedding, status_if_found
            if job.data is None:
                raise EmbeddingNotCached(job.key.image_id)

            # 2. Share one task with all callers in this process; it does the rest.
            encode = partial(self._encode, job, job.data)
            with clock.stage("turn") if job.key in self._flights else nullcontext():
                shared = await self._flights.run(job.key, encode, job.deadline)
            if (made := shared.result) is not None:
                entry = made.embedding if job.wanted == job.key else made.trunk
                if entry is None:
                    raise Unavailable(f"model {job.spec.name!r} returned no trunk")
                return entry, CacheStatus.COALESCED if shared.joined else CacheStatus.MISS

            # Another replica has stored it. Look again; it may have been evicted already.
            status_if_found = CacheStatus.COALESCED

    def _contract(self, job: Job) -> EmbeddingContract:
        limits = SizeLimits(self._limits.max_pixels, self._limits.max_aspect)
        trunk = {TRUNK: job.spec.trunk}
        shapes = dict(job.spec.shapes) if job.wanted == job.key else trunk
        return EmbeddingContract(shapes, limits)

    async def _encode(self, job: Job, data: bytes, flight: Flight) -> _Encoded | None:
        """Encode the image and store what it gives; None if another replica stored it."""
        clock = job.clock

        # 3. Claim the image among all replicas.
        async with self._claims.claim(job.wanted) as claim:
            with clock.stage("turn"):
                if not await claim.acquire():
                    return None
                generation = await self._cache.generation(job.key)
                self._quotas.check(Quota.PIXELS, Quota.CACHED_BYTES)
                self._quotas.take(Quota.ENCODES)

            # 4. Wait for a slot.
            with clock.stage("queue"):
                slot = await self._slots.slot(job.priority)
            with slot:
                # 5. Decode and resize the image.
                with clock.stage("decode"):
                    image = await self._decoder.frame(data, job.spec.frame, job.crop)
                self._spend(Quota.PIXELS, image.size.width * image.size.height)

                # 6. Run the encoder. From here on the work is too expensive to throw away.
                seconds = flight.begin()
                with clock.stage("encode"):
                    tensors = await self._encoder.encode(job.spec, image, job.priority, seconds)

            # 7. Pack once, since the same bytes are cached and sent; store them.
            with clock.stage("store"):
                trunk = tensors.pop(TRUNK, None)
                embedding = await self._store(job.key, job, image, tensors, generation)
                if trunk is None:
                    return _Encoded(embedding, None)
                key = trunk_key(job.key)
                stored = await self._store(key, job, image, {TRUNK: trunk}, generation)
                return _Encoded(embedding, stored)

    def _spend(self, quota: Quota, units: int) -> None:
        """Count what has been used; the next image is refused if it was too much."""
        with suppress(QuotaSpent):
            self._quotas.take(quota, units)

    async def _store(
        self,
        key: CacheKey,
        job: Job,
        image: FramedImage,
        tensors: dict[str, Halves],
        generation: Generation | None,
    ) -> Embedding:
        embedding = Embedding(job.spec.model_version, image.size, tensors)
        packed = await run_in_pool(self._pool, pack, embedding, self._coding)
        embedding = replace(embedding, packed=packed)
        self._spend(Quota.CACHED_BYTES, len(packed))
        await self._cache.put(key, embedding, generation)
        return embedding
