"""Answers prompts on images."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from samserve.core.cache_status import CacheStatus
from samserve.core.errors import ModelVersionMismatch
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
from samserve.infra.pool import run_in_pool
from samserve.infra.stages import StageClock


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """Prompts on one image, and what to return of the masks."""

    image: ImageRequest
    prompts: list[PromptInput]
    output: Output


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image that is ready for prompts; `status` says where its embedding came from."""

    image_id: str
    ready: ReadyImage
    status: CacheStatus


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
    async def find(self, key: CacheKey, model: ServedModel, data: bytes | None) -> SourcedImage: ...


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

        answers = await self.answer(model, image.ready, prompts, request.output, clock)
        return Segmented(image, [answer.masks for answer in answers])

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
        model = await self._accepting(request.model_version, model)

        with clock.stage("hash"):
            image_id = await request.identify(self._hash)
        bind_image_id(image_id)

        try:
            return await self._find(request, image_id, model, clock)
        except ModelVersionMismatch:
            # The embedding may be of a variant that was added since the start.
            refreshed = await self._models.refresh(model)
            if refreshed is None:
                raise
        return await self._find(request, image_id, refreshed, clock)

    async def _accepting(self, version: str, model: ServedModel) -> ServedModel:
        """Return the model with its newest variants if the version is not of the known ones."""
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
            key = CacheKey(request.tenant, version, image_id)
            found = await self._source.find(key, model, request.data)
        clock.add({f"embedding.{stage}": ms for stage, ms in found.remote_ms.items()})
        return FoundImage(image_id, found.image, found.status)

    async def answer(
        self,
        model: ServedModel,
        image: ReadyImage,
        prompts: list[Prompt],
        output: Output,
        clock: StageClock,
    ) -> list[PromptAnswer]:
        """Answer each prompt; the prompts and the output have been checked.

        Raises:
            InvalidInput: The answer is too large.
            Overloaded: The queue is full.
        """
        answer_size = AnswerSize(output.max_bytes)
        answer_size.check(expected_bytes(prompts, output, image.size, model.low_res))
        job = _Job(
            model.decoder,
            image,
            prompts,
            output,
            answer_size,
            clock,
            queued_at=time.perf_counter(),
        )

        with self._queue.place(len(prompts)):
            if len(prompts) == 1:
                return await self._answer_one(job)
            return await self._answer_many(job)

    async def _answer_one(self, job: _Job) -> list[PromptAnswer]:
        """Decode and write in one piece of work: a person waits for each hop between threads."""
        return [await run_in_pool(self._pool, job.decode_and_write)]

    async def _answer_many(self, job: _Job) -> list[PromptAnswer]:
        """Decode the prompts together, then write their masks in parallel."""
        candidates = await run_in_pool(self._pool, job.decode)
        with job.clock.stage("masks"):
            return await asyncio.gather(
                *(run_in_pool(self._pool, job.write, each) for each in candidates)
            )

    async def _hash(self, data: bytes) -> str:
        with self._queue.place():
            return await run_in_pool(self._pool, hash_image, data)


@dataclass(frozen=True, slots=True)
class _Job:
    """Prompts on an image, and the work on them; runs in the pool.

    `queued_at` is when the work was handed to the pool, by `time.perf_counter`.
    """

    decoder: MaskDecoder
    image: ReadyImage
    prompts: list[Prompt]
    output: Output
    answer_size: AnswerSize
    clock: StageClock
    queued_at: float

    def decode(self) -> list[Candidates]:
        self.clock.note("queue", time.perf_counter() - self.queued_at)
        with self.clock.stage("decode"):
            candidates = self.decoder.decode(self.image, self.prompts)

        DECODED.labels(self.decoder.bundle.name).inc(len(self.prompts))
        return candidates

    def write(self, candidates: Candidates) -> PromptAnswer:
        frame = self.decoder.bundle.mask_frame
        masks = write_masks(candidates, self.image.size, frame, self.output, self.answer_size)
        return PromptAnswer(candidates, masks)

    def decode_and_write(self) -> PromptAnswer:
        (candidates,) = self.decode()
        with self.clock.stage("masks"):
            return self.write(candidates)
