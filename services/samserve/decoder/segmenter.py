"""What the decoder service does with prompts."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from samserve.core import runs
from samserve.core.cache_status import CacheStatus
from samserve.core.errors import InvalidInput, ModelVersionMismatch
from samserve.core.geometry import Frame, Size
from samserve.core.image_id import check_expected, check_image_id, image_id
from samserve.core.rle import encode_rle
from samserve.decoder.admission import DecodeQueue
from samserve.decoder.image_source import Found
from samserve.decoder.masks import outline as masks
from samserve.decoder.masks.polygons import Polygon, polygons
from samserve.decoder.prompt import Prompt, check_prompts
from samserve.decoder.registry import ModelRegistry
from samserve.decoder.sam.mask_decoder import Candidates
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.infra.cache import CacheKey
from samserve.infra.logs import bind_image_id
from samserve.infra.metrics import DECODED
from samserve.infra.stages import StageClock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Output:
    """What is wanted of each mask, and how many masks of each prompt, 0 for all. polygon_tolerance: pixels."""

    rle: bool = False
    png: bool = False
    polygons: bool = False
    bits: bool = False
    low_res_logits: bool = False
    polygon_tolerance: float = 0.0
    max_masks: int = 0


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """An image, given by its bytes or its id. An empty model means the default, an empty version the one served.

    expected_image_id: what the caller takes the image's id to be; empty: nothing in particular.
    """

    tenant: str
    model: str
    data: bytes | None
    image_id: str
    expected_image_id: str
    model_version: str


@dataclass(frozen=True, slots=True)
class SegmentOrder:
    """Prompts on one image."""

    image: ImageOrder
    prompts: list[Prompt]
    output: Output


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """One mask; the forms that were not wanted are None. bits: rows of whole bytes; low_res_logits: fp16, row-major."""

    predicted_iou: float
    stability_score: float
    area: int
    box: runs.Box
    rle: bytes | None
    png: bytes | None
    polygons: list[Polygon] | None
    bits: bytes | None
    low_res_logits: bytes | None


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image ready for prompts. status: where its embedding came from."""

    image_id: str
    ready: ReadyImage
    status: CacheStatus


@dataclass(frozen=True, slots=True)
class Segmented:
    """The outcome: per prompt its masks, best first."""

    image: FoundImage
    results: list[list[MaskAnswer]]


class Finder(Protocol):
    """Finds embeddings."""

    def version_served(self, model: str, expected: str) -> str: ...
    async def find(
        self, key: CacheKey, model: str, versions: frozenset[str], data: bytes | None
    ) -> Found: ...


class Segmenter:
    """Answers prompts. Any instance can answer any order: what it keeps only makes it faster."""

    def __init__(
        self, embeddings: Finder, models: ModelRegistry, pool: Executor, admission: DecodeQueue
    ) -> None:
        self._embeddings, self._models, self._pool, self._admission = (
            embeddings,
            models,
            pool,
            admission,
        )

    def low_res(self, model: str) -> int:
        """Side of a model's low-res logits. Raises ModelNotFound."""
        return self._models.named(model).bundle.low_res

    async def segment(self, order: SegmentOrder, clock: StageClock) -> Segmented:
        """Find the image, decode the prompts on it, write the masks."""
        check_output(order.output)
        image = await self.find(order.image, clock)
        check_prompts(order.prompts, image.ready.size)
        answers = await self.answer(image.ready, order.prompts, order.output, clock)
        return Segmented(image, [masks for _, masks in answers])

    async def find(self, order: ImageOrder, clock: StageClock) -> FoundImage:
        """The image, ready; it is embedded if it must be and the bytes are given. A version that is not known may be of
        a variant that has come since the start: then the bundle is looked at again.
        """
        try:
            return await self._find(order, clock)
        except ModelVersionMismatch:
            if not await self._models.learn(order.model):
                raise
        return await self._find(order, clock)

    async def _find(self, order: ImageOrder, clock: StageClock) -> FoundImage:
        bundle = self._models.named(order.model).bundle
        versions = self._models.versions(bundle.name)
        version = order.model_version or self._embeddings.version_served(
            bundle.name, bundle.model_version
        )
        if version not in versions:
            raise ModelVersionMismatch(version, bundle.model_version)
        with clock.stage("hash"):
            name = await self._identify(order)
        with clock.stage("embedding"):
            key = CacheKey(order.tenant, version, name)
            found = await self._embeddings.find(key, bundle.name, versions, order.data)
        clock.add({f"embedding.{stage}": ms for stage, ms in found.remote_ms.items()})
        return FoundImage(name, found.image, found.status)

    async def answer(
        self, image: ReadyImage, prompts: list[Prompt], output: Output, clock: StageClock
    ) -> list[tuple[Candidates, list[MaskAnswer]]]:
        """Each prompt's candidates, and their masks in the forms wanted; the prompts have been checked. Raises
        Overloaded.
        """
        with self._admission.place(len(prompts)):
            return await self._answer(image, prompts, output, clock)

    async def _answer(
        self, image: ReadyImage, prompts: list[Prompt], output: Output, clock: StageClock
    ) -> list[tuple[Candidates, list[MaskAnswer]]]:
        decoder, asked = self._models.of_version(image.model_version), time.perf_counter()

        def decode() -> list[Candidates]:
            clock.note("queue", time.perf_counter() - asked)
            with clock.stage("decode"):
                every = decoder.decode(image, prompts)
            DECODED.labels(decoder.bundle.name).inc(len(prompts))
            return every

        def write(candidates: Candidates) -> tuple[Candidates, list[MaskAnswer]]:
            return candidates, write_masks(
                candidates, image.size, decoder.bundle.mask_frame, output
            )

        def click() -> list[tuple[Candidates, list[MaskAnswer]]]:
            (candidates,) = decode()
            with clock.stage("masks"):
                return [write(candidates)]

        if len(prompts) == 1:  # a person waits: one way to the pool and back
            return await self._in_pool(click)
        every = await self._in_pool(decode)
        with clock.stage("masks"):
            return await asyncio.gather(
                *(self._in_pool(partial(write, candidates)) for candidates in every)
            )

    async def _identify(self, order: ImageOrder) -> str:
        if order.data is None:
            name = check_image_id(order.image_id)
        else:
            data = order.data
            with self._admission.place():
                name = await self._in_pool(lambda: image_id(data))
        bind_image_id(name)
        check_expected(name, order.expected_image_id)
        return name

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, copy_context().run, work
        )


def check_output(output: Output) -> None:
    """Raise InvalidInput, naming the field, for an option that means nothing."""
    if not 0 <= output.polygon_tolerance < math.inf:
        field = "output.polygon_tolerance"
        raise InvalidInput(
            field, f"{field} is {output.polygon_tolerance:g}, not a number of pixels, 0 or more"
        )


def write_masks(
    candidates: Candidates, size: Size, frame: Frame, output: Output
) -> list[MaskAnswer]:
    """As many of the candidates as are wanted, best first."""
    every = zip(candidates.logits, candidates.predicted_iou, candidates.stability, strict=True)
    return [
        write_mask(logits, (float(iou), float(stability)), size, frame, output)
        for logits, iou, stability in islice(every, output.max_masks or None)
    ]


def write_mask(
    logits: masks.Floats, scores: tuple[float, float], size: Size, frame: Frame, output: Output
) -> MaskAnswer:
    """One mask in the forms wanted; logits: [L, L], low-res; scores: predicted IoU and stability."""
    mask = masks.outline(logits, size, frame)
    return MaskAnswer(
        predicted_iou=scores[0],
        stability_score=scores[1],
        area=runs.area(mask),
        box=runs.box(mask),
        rle=encode_rle(mask) if output.rle else None,
        png=masks.png(mask) if output.png else None,
        polygons=polygons(mask, output.polygon_tolerance) if output.polygons else None,
        bits=runs.bits(mask).tobytes() if output.bits else None,
        low_res_logits=logits.astype("<f2").tobytes() if output.low_res_logits else None,
    )
