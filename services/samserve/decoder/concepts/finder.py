"""Answers Find: has the concepts looked for, chooses instances, writes their masks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import numpy as np

from samserve.core.arrays import Floats, Halves
from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Concept, check_concept
from samserve.core.detections import Detections
from samserve.core.embedding import EmbeddingHeader
from samserve.core.errors import InvalidInput, Overloaded, SamserveError
from samserve.core.geometry import Frame, Size
from samserve.core.image_request import ImageRequest
from samserve.core.limits import MAX_SEARCHES, MAX_SEARCHES_WAITING
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.concepts.choice import Candidate, Choice, choose
from samserve.decoder.concepts.head import ConceptHead, ConceptHeads, ConceptQuery, FoundConcept
from samserve.decoder.masks.answer_size import AnswerSize
from samserve.decoder.masks.write import (
    MaskAnswer,
    Output,
    check_output,
    known_bytes,
    write_mask,
)
from samserve.decoder.prompt import Prompt
from samserve.decoder.registry import ServedModel
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.sam.stability import stability_score
from samserve.decoder.segmenter import Segmenter
from samserve.infra.stages import StageClock

PIECE = 8  # masks that are written in one piece of work


@dataclass(frozen=True, slots=True)
class ConceptInput:
    """A concept as its caller sent it, and the least score of its instances if it has one."""

    concept: Concept
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class FindRequest:
    """Concepts to find on one image, and what to return.

    Attributes:
        image: The image.
        concepts: What to look for.
        output: What to write of each mask; `max_masks` bounds the instances of a concept.
        threshold: Least score of an instance; None for the head's own.
        max_overlap: IoU of two masks from which the lower-scored one is left out; 0 for never.
    """

    image: ImageRequest
    concepts: tuple[ConceptInput, ...]
    output: Output
    threshold: float | None = None
    max_overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """One instance, written: the model's score and box [4], and the mask."""

    score: float
    box: Floats
    mask: MaskAnswer


@dataclass(frozen=True, slots=True)
class FoundInstances:
    """The answer to one concept, best instances first; attributes as of `ConceptResult`."""

    presence: float
    instances: list[FoundInstance]
    cut_off: bool
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a request.

    Attributes:
        image_id: SHA-256 of the image's bytes.
        image: Its size, and the version that embedded it.
        status: Where its embedding came from.
        results: For each concept its instances, or why it failed.
    """

    image_id: str
    image: EmbeddingHeader
    status: CacheStatus
    results: list[FoundInstances | SamserveError]


class Finder:
    """Finds concepts. Any replica can answer any request."""

    def __init__(
        self, segmenter: Segmenter, heads: ConceptHeads, pool: Executor, queue: DecodeQueue
    ) -> None:
        """Create a finder.

        Args:
            segmenter: Knows the models, and names images.
            heads: Look for the concepts.
            pool: Threads that write masks.
            queue: Bounds the work for the pool.
        """
        self._segmenter = segmenter
        self._heads = heads
        self._pool = pool
        self._queue = queue
        self._turns = asyncio.Semaphore(MAX_SEARCHES)
        self._searches = 0

    def knows_concepts(self, model: ServedModel) -> bool:
        """Whether the model answers `find`."""
        return model in self._heads

    async def find(self, request: FindRequest, clock: StageClock) -> Found:
        """Find the concepts and write their masks.

        An invalid concept fails alone. If all are invalid, the request fails with the first's
        error, and the image is not looked for.

        Raises:
            NoConcepts: The model knows none.
            InvalidInput: The request is invalid, or all concepts are.
            Overloaded: Too many searches wait already.
        """
        # 1. Check what is common to all concepts.
        model = self._segmenter.resolve(request.image.model)
        head = self._heads.of(model)
        _check(request)

        # 2. Wait for a place, since what is found takes memory.
        async with self._place():
            return await self._find(request, model, head, clock)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._searches >= MAX_SEARCHES + MAX_SEARCHES_WAITING:
            raise Overloaded("the decoder's queue of searches")
        self._searches += 1
        try:
            async with self._turns:
                yield
        finally:
            self._searches -= 1

    async def _find(
        self,
        request: FindRequest,
        model: ServedModel,
        head: ConceptHead,
        clock: StageClock,
    ) -> Found:
        # 3. Check the concepts.
        checked = await self._queue.run(self._pool, _check_all, request.concepts, head)
        problems = [each for each in checked if isinstance(each, InvalidInput)]
        if len(problems) == len(checked):
            raise problems[0]

        # 4. Have those that are valid looked for.
        concepts = {n: each for n, each in enumerate(checked) if isinstance(each, Concept)}
        model = await self._segmenter.accepting(request.image.model_version, model)
        image_id = await self._segmenter.identify(request.image, clock)
        answer = await head.find(ConceptQuery(request.image, image_id, model, concepts), clock)

        # 5. Draw the masks that the head has not, choose the instances, and write them.
        found = {n: each for n, each in answer.results.items() if isinstance(each, FoundConcept)}
        detections = {
            number: each.detections.above(_threshold(request, number, head))
            for number, each in found.items()
        }
        detections = await self._drawn(request, model, detections, clock)
        with clock.stage("masks"):
            choice = await self._queue.run(
                self._pool, choose, detections, request.max_overlap, request.output.max_masks
            )
            masks = await self._write(request, model, answer.image.size, choice)

        results: dict[int, FoundInstances | SamserveError] = {
            number: each
            for number, each in chain(enumerate(checked), answer.results.items())
            if isinstance(each, SamserveError)
        }
        results |= {n: _result(each, choice[n], masks[n]) for n, each in found.items()}
        ordered = [results[number] for number in range(len(checked))]
        return Found(image_id, answer.image, answer.status, ordered)

    async def _drawn(
        self,
        request: FindRequest,
        model: ServedModel,
        found: Mapping[int, Detections],
        clock: StageClock,
    ) -> dict[int, Detections]:
        """Return the detections with masks; the model's decoder draws those of boxes only."""
        without = {n: each for n, each in found.items() if each.logits is None}
        if not without:
            return dict(found)

        image = (await self._segmenter.find(request.image, model, clock)).ready
        with clock.stage("decode"):
            boxes = np.concatenate([each.boxes for each in without.values()])
            works = (partial(_draw, model.decoder, image, box) for box in boxes)
            drawn = iter(await self._queue.run_batch(self._pool, works, len(boxes)))
        side = model.low_res
        masks = {
            n: np.array(list(islice(drawn, len(each.boxes)))).reshape(-1, side, side)
            for n, each in without.items()
        }
        return {
            n: replace(each, logits=masks[n]) if n in masks else each for n, each in found.items()
        }

    async def _write(
        self, request: FindRequest, model: ServedModel, size: Size, choice: Mapping[int, Choice]
    ) -> dict[int, list[MaskAnswer]]:
        """Write the masks of the chosen instances, in pieces of `PIECE`."""
        chosen = [each for some in choice.values() for each in some.instances]
        answer_size = AnswerSize(request.output.max_bytes)
        answer_size.check(len(chosen) * known_bytes(request.output, size, model.low_res))

        frame = model.decoder.bundle.mask_frame
        pieces = [chosen[start : start + PIECE] for start in range(0, len(chosen), PIECE)]
        works = (
            partial(_write_piece, piece, size, frame, request.output, answer_size)
            for piece in pieces
        )
        written = chain.from_iterable(await self._queue.run_batch(self._pool, works, len(pieces)))
        return {n: list(islice(written, len(some.instances))) for n, some in choice.items()}


def _check(request: FindRequest) -> None:
    """Check what is common to all concepts. Raises InvalidInput."""
    check_output(request.output)
    if not request.concepts:
        raise InvalidInput("concepts", "no concept given; give at least one text or example")
    if request.threshold is not None:
        _check_share(request.threshold, "threshold")
    _check_share(request.max_overlap, "max_overlap")


def _check_share(value: float, field: str) -> None:
    if not 0 <= value <= 1:
        raise InvalidInput(field, f"invalid {field} {value:g}: expected a number from 0 to 1")


def _check_all(concepts: Sequence[ConceptInput], head: ConceptHead) -> list[Concept | InvalidInput]:
    """Check the concepts; counting the tokens of long texts takes milliseconds."""
    return [
        _checked(concept, f"concepts[{number}]", head) for number, concept in enumerate(concepts)
    ]


def _checked(concept: ConceptInput, field: str, head: ConceptHead) -> Concept | InvalidInput:
    """Return the concept, or what is wrong with it."""
    try:
        check_concept(concept.concept, field)
        if concept.threshold is not None:
            _check_share(concept.threshold, f"{field}.threshold")
        head.check(concept.concept, field)
    except InvalidInput as problem:
        return problem
    return concept.concept


def _threshold(request: FindRequest, number: int, head: ConceptHead) -> float:
    """Return the least score of a concept's instances: its own, the request's, the head's."""
    own = request.concepts[number].threshold
    if own is not None:
        return own
    return head.threshold if request.threshold is None else request.threshold


def _draw(decoder: MaskDecoder, image: ReadyImage, box: Floats) -> Halves:
    """Return the low-res logits, [L, L], of the mask in a box."""
    corners = np.clip(box, 0, np.tile([image.size.width, image.size.height], 2))
    prompt = Prompt(
        points=np.zeros((0, 2), np.float32),
        labels=np.zeros(0, np.float32),
        box=corners.astype(np.float32),
        mask_input=None,
        multimask=False,
    )
    (candidates,) = decoder.decode(image, [prompt])
    logits: Halves = candidates.logits[0].astype(np.float16)
    return logits


def _write_piece(
    piece: Sequence[Candidate], size: Size, frame: Frame, output: Output, answer_size: AnswerSize
) -> list[MaskAnswer]:
    """Write some masks; runs in the pool."""
    masks = []
    for each in piece:
        answer_size.check()
        logits = each.logits.astype(np.float32)
        stability = stability_score(logits, size, frame)
        mask = write_mask(logits, (each.score, stability), size, frame, output)
        answer_size.add(mask.sent_bytes)
        masks.append(mask)
    return masks


def _result(found: FoundConcept, choice: Choice, masks: list[MaskAnswer]) -> FoundInstances:
    return FoundInstances(
        presence=found.detections.presence,
        instances=[
            FoundInstance(each.score, each.box, mask)
            for each, mask in zip(choice.instances, masks, strict=True)
        ],
        cut_off=choice.cut_off,
        status=found.status,
    )
