"""Answers prompts on images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Protocol

from samserve.core.cache_status import CacheStatus
from samserve.core.crop import Crop, crop_id
from samserve.core.errors import EmbeddingNotCached, ModelVersionMismatch
from samserve.core.image_id import image_id as hash_image
from samserve.core.image_request import ImageRequest
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_source import SourcedImage
from samserve.decoder.masks.answer_size import AnswerSize
from samserve.decoder.masks.write import (
    MaskAnswer,
    Output,
    check_output,
    expected_bytes,
    write_masks,
)
from samserve.decoder.prompt import Prompt, PromptInput, check_all_inside, read_prompts
from samserve.decoder.registry import ModelRegistry, ServedModel
from samserve.decoder.sam.mask_decoder import Candidates, MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.logs import bind_image_id
from samserve.infra.metrics import DECODED
from samserve.infra.stages import StageClock

LONG_PROMPT = 16  # points; one of 64 takes as long as several clicks


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """Prompts on one image, and what to return of the masks."""

    image: ImageRequest
    prompts: list[PromptInput]
    output: Output


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image that is ready for prompts.

    Attributes:
        key: To find it again.
        ready: With its embedding.
        status: Where the embedding came from.
    """

    key: CacheKey
    ready: ReadyImage
    status: CacheStatus

    @property
    def image_id(self) -> str:
        """SHA-256 of the image's bytes."""
        return self.key.image_id


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """The answer to one prompt: the decoder's candidates, and the masks written from them."""

    candidates: Candidates
    masks: list[MaskAnswer]


@dataclass(frozen=True, slots=True)
class Segmented:
    """The answer to a request: for each prompt its masks, best first."""

    image: FoundImage
    results: list[list[MaskAnswer]]


class Source(Protocol):
    """Finds images."""

    def version_served(self, model: ServedModel) -> str: ...
    async def find(
        self,
        key: CacheKey,
        model: ServedModel,
        data: bytes | None,
        crop: Crop | None = None,
    ) -> SourcedImage: ...


class Segmenter:
    """Answers prompts. Any replica can answer any request; what one keeps only makes it faster."""

    def __init__(
        self, source: Source, models: ModelRegistry, pool: Executor, queue: DecodeQueue
    ) -> None:
        """Create a segmenter.

        Args:
            source: Finds the images.
            models: The models to answer for.
            pool: Threads that hash, decode and write masks.
            queue: Bounds the work for the pool.
        """
        self._source = source
        self._models = models
        self._pool = pool
        self._queue = queue

    @property
    def models(self) -> list[ServedModel]:
        """The models; the first is the default."""
        return self._models.served

    def resolve(self, model: str) -> ServedModel:
        """Return the model of this name. Raises ModelNotFound."""
        return self._models.resolve(model)

    async def segment(self, request: MaskRequest, clock: StageClock) -> Segmented:
        """Find the image, decode the prompts on it, write the masks.

        Everything that can be checked without the image is checked before it is looked for: an
        invalid request never costs an encode.
        """
        model = self.resolve(request.image.model)
        check_output(request.output)
        prompts = read_prompts(request.prompts, model.low_res)

        image = await self.find(request.image, model, clock)
        check_all_inside(prompts, image.ready.size)

        jobs = _jobs(model, image.ready, prompts, request.output, clock)
        if len(prompts) == 1:
            masks = [await self._queue.run(self._pool, next(jobs).masks)]
        else:
            works = (job.masks for job in jobs)
            long = any(len(prompt.points) > LONG_PROMPT for prompt in prompts)
            masks = await self._queue.run_batch(self._pool, works, len(prompts), long)
        return Segmented(image, masks)

    async def find(
        self, request: ImageRequest, model: ServedModel, clock: StageClock
    ) -> FoundImage:
        """Return the image, ready for prompts; it is embedded if necessary.

        Args:
            request: The image.
            model: The request's model, resolved.
            clock: Receives the stages.

        Raises:
            InvalidInput: The image's id is invalid, or not the expected one.
            EmbeddingNotCached: The image is unknown, and its bytes were not sent.
            ModelVersionMismatch: The embedding is of no version of the model.
            Overloaded: The queue is full.
        """
        model = await self.accepting(request.model_version, model)
        image_id = await self.identify(request, clock)
        try:
            return await self._find(request, image_id, model, clock)
        except ModelVersionMismatch:
            # The embedding may be of a variant that was added since the start.
            refreshed = await self._models.refresh(model)
            if refreshed is None:
                raise
        return await self._find(request, image_id, refreshed, clock)

    async def identify(self, request: ImageRequest, clock: StageClock) -> str:
        """Return the image's id.

        Raises:
            InvalidInput: It is invalid, or not the expected one.
        """
        with clock.stage("hash"):
            image_id = await request.identify(self._hash)
        bind_image_id(image_id)
        return image_id

    async def accepting(self, version: str, model: ServedModel) -> ServedModel:
        """Return the model with its newest variants if the version is not of the known ones.

        Raises:
            ModelVersionMismatch: It is of none.
        """
        if not version or version in model.versions:
            return model

        refreshed = await self._models.refresh(model)
        if refreshed is None or version not in refreshed.versions:
            raise ModelVersionMismatch(version, model.model_version)
        return refreshed

    async def _find(
        self, request: ImageRequest, image_id: str, model: ServedModel, clock: StageClock
    ) -> FoundImage:
        version = request.model_version or self._source.version_served(model)

        with clock.stage("embedding"):
            key = CacheKey(request.owner, version, image_id)
            found = await self._source.find(key, model, request.data)
        clock.add({f"embedding.{stage}": ms for stage, ms in found.remote_ms.items()})
        key = replace(key, model_version=found.image.model_version)
        return FoundImage(key, found.image, found.status)

    async def find_again(self, key: CacheKey, model: ServedModel) -> ReadyImage:
        """Return an image that was found before.

        Raises:
            EmbeddingNotCached: It is neither in this process nor in the cache any more.
            Overloaded: The queue is full.
        """
        return (await self._source.find(key, model, None)).image

    async def find_crop(
        self, image: FoundImage, model: ServedModel, data: bytes | None, crop: Crop
    ) -> ReadyImage:
        """Return a part of an image, which is embedded like an image if necessary.

        Args:
            image: The whole image.
            model: That the image was found for.
            data: The whole image's bytes, or None if they were not sent.
            crop: The part.

        Raises:
            EmbeddingNotCached: The part must be embedded, and the bytes were not sent.
            Overloaded: The queue is full.
        """
        key = replace(image.key, image_id=crop_id(image.image_id, crop), whole_id=image.image_id)
        try:
            return (await self._source.find(key, model, data, crop)).image
        except EmbeddingNotCached as problem:
            raise EmbeddingNotCached(image.image_id) from problem

    async def answer(
        self,
        model: ServedModel,
        image: ReadyImage,
        prompt: Prompt,
        output: Output,
        clock: StageClock,
    ) -> PromptAnswer:
        """Answer one prompt; it and the output have been checked.

        Raises:
            InvalidInput: The answer is too large.
            Overloaded: The queue is full.
        """
        (job,) = _jobs(model, image, [prompt], output, clock)
        return await self._queue.run(self._pool, job.answer)

    async def _hash(self, data: bytes) -> str:
        return await self._queue.run(self._pool, hash_image, data)


@dataclass(frozen=True, slots=True)
class _Job:
    """One prompt on an image; runs in the pool, in one piece: each hop between threads takes time.

    `queued_at` is when it began to wait for a thread, by `time.perf_counter`.
    """

    decoder: MaskDecoder
    image: ReadyImage
    prompt: Prompt
    output: Output
    answer_size: AnswerSize
    clock: StageClock
    queued_at: float

    def answer(self) -> PromptAnswer:
        """Decode the prompt and write its masks."""
        self.clock.note("queue", time.perf_counter() - self.queued_at)
        with self.clock.stage("decode"):
            (candidates,) = self.decoder.decode(self.image, [self.prompt])
        DECODED.labels(self.decoder.bundle.name).inc()

        with self.clock.stage("masks"):
            frame = self.decoder.bundle.mask_frame
            masks = write_masks(candidates, self.image.size, frame, self.output, self.answer_size)
        return PromptAnswer(candidates, masks)

    def masks(self) -> list[MaskAnswer]:
        """Return the masks alone: the candidates of many prompts would take much memory."""
        return self.answer().masks


def _jobs(
    model: ServedModel,
    image: ReadyImage,
    prompts: list[Prompt],
    output: Output,
    clock: StageClock,
) -> Iterator[_Job]:
    """Yield a job for each prompt, when it begins to wait.

    Raises:
        InvalidInput: The answer is too large.
    """
    answer_size = AnswerSize(output.max_bytes)
    answer_size.check(expected_bytes(prompts, output, image.size, model.low_res))
    return (
        _Job(model.decoder, image, prompt, output, answer_size, clock, time.perf_counter())
        for prompt in prompts
    )
