"""Answers predictions: one task with the annotator's regions, or a batch of tasks without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from samserve.client import AsyncClient, CachedImage, Mask
from samserve.client.everything import GridOptions
from samserve.core.caller import current_caller
from samserve.core.errors import EmbeddingNotCached, InvalidInput, PermissionDenied
from samserve.core.fair_lru import FairLru
from samserve.gateway.label_studio.config import LabelConfig, parse_label_config
from samserve.gateway.label_studio.images import KnownImage, KnownImages
from samserve.gateway.label_studio.messages import ContextRegion, PredictRequest, Task
from samserve.gateway.label_studio.prompts import object_prompts
from samserve.gateway.label_studio.regions import FORMATS, regions, score_of
from samserve.gateway.label_studio.studio import ImageSource, LabelStudio, image_source
from samserve.gateway.service import Service

MODEL_NAME = "label-studio"  # in SAMSERVE_GATEWAY_MODELS
POLYGON_TOLERANCE = 1.0  # pixels
GRID = GridOptions(points_per_side=16)  # a quarter of SAM's points: Label Studio waits for 100 s
MOST_REGIONS = 1000  # of an image that is segmented without a click
MOST_PREPARED = 1000  # tasks that annotators work on at once

Result = dict[str, Any]
Labeled = tuple[Mask, str]  # a mask, and the label that the annotator chose; empty for none

log = structlog.get_logger()


class Predictor:
    """The predictions of one gateway, and what it remembers for them."""

    def __init__(self, service: Service, version: str) -> None:
        """Begin without images.

        Args:
            service: Of the gateway.
            version: That predictions are stored with.
        """
        self._service = service
        self._version = version
        self._studio = LabelStudio(service.settings)
        self._images = KnownImages(self._studio.image, self._client)
        # Projects and tasks whose next images were asked for.
        self._prepared: FairLru[tuple[int, int], bool] = FairLru(MOST_PREPARED)

    async def close(self) -> None:
        await self._images.close()
        await self._studio.close()

    async def predict(self, request: PredictRequest) -> list[Result]:
        """Return a result for each task.

        Raises:
            PermissionDenied: Label Studio, whose images are fetched with its token, is of another
                tenant.
            SamserveError: The request is invalid, or an image or a service is not available.
        """
        self._check_tenant()
        config = parse_label_config(request.label_config)
        context = request.params.context
        if context is None:
            return await self._predict_batch(request.tasks, config)
        if len(request.tasks) != 1:
            raise InvalidInput("tasks", f"tasks: {len(request.tasks)} with a context; send one")

        source = _source_of(0, request.tasks[0], config)
        self._embed_next(request.project_id, source, config)
        return [await self._predict_one(context.result, source, config)]

    def _check_tenant(self) -> None:
        tenant = self._service.settings.label_studio_tenant
        if self._studio.is_configured and current_caller().tenant != tenant:
            raise PermissionDenied

    async def _predict_one(
        self, marked: list[ContextRegion], source: ImageSource, config: LabelConfig
    ) -> Result:
        """Answer the annotator's regions."""
        if not marked:
            await self._images.get(source)  # a region will follow
            return self._result([], [])

        async def segment(image: KnownImage) -> list[Labeled]:
            """Return the best mask of each object."""
            objects = object_prompts(marked, image.size)
            answer = await self._client().predict(
                CachedImage(image.image_id),
                [each.prompt for each in objects],
                formats=FORMATS[config.output.kind],
                polygon_tolerance=POLYGON_TOLERANCE,
                max_masks=1,
            )
            return [
                (masks[0], each.label) for each, masks in zip(objects, answer.results, strict=True)
            ]

        found = await self._ask(source, segment)
        return await asyncio.to_thread(self._write, found, config)

    async def _predict_batch(self, tasks: list[Task], config: LabelConfig) -> list[Result]:
        """Segment everything in one task's image.

        Label Studio sends all tasks that a person has selected in one request, and waits for 100 s.
        To one result for several tasks it answers by asking for each task alone.
        """
        sources = [_source_of(index, task, config) for index, task in enumerate(tasks)]
        if len(sources) != 1:
            self._images.embed_ahead(sources)
            return [self._result([], [])]

        found = await self._everything(sources[0], config)
        return [await asyncio.to_thread(self._write, found, config)]

    async def _everything(self, source: ImageSource, config: LabelConfig) -> list[Labeled]:
        """Return all objects."""

        async def segment(image: KnownImage) -> list[Labeled]:
            found = await self._using(self._service.sweeping()).generate_masks(
                CachedImage(image.image_id),
                GRID,
                formats=FORMATS[config.output.kind],
                polygon_tolerance=POLYGON_TOLERANCE,
                max_masks=MOST_REGIONS,
            )
            return [(record.mask, "") for record in found.records]

        return await self._ask(source, segment)

    async def _ask(
        self, source: ImageSource, segment: Callable[[KnownImage], Awaitable[list[Labeled]]]
    ) -> list[Labeled]:
        """Segment an image; if its embedding left the cache since its last use, fetch it again."""
        try:
            return await segment(await self._images.get(source))
        except EmbeddingNotCached:
            self._images.forget(source)
            return await segment(await self._images.get(source))

    def _write(self, found: list[Labeled], config: LabelConfig) -> Result:
        """Write masks as regions. Takes milliseconds for each."""
        written: list[Result] = []
        for mask, label in found:
            written += regions(mask, config.output, label)
        return self._result(written, [score_of(mask) for mask, _ in found])

    def _result(self, written: list[Result], scores: list[float]) -> Result:
        score = round(sum(scores) / len(scores), 4) if scores else 0.0
        return {"result": written, "score": score, "model_version": self._version}

    def _embed_next(self, project: int, source: ImageSource, config: LabelConfig) -> None:
        """Embed the images of the next tasks ahead; once for each task, not for each click."""
        count = self._service.settings.label_studio_prewarm
        owner, place = current_caller().owner, (project, source.task)
        if not (self._studio.is_configured and count and project):
            return
        if (owner, place) in self._prepared:
            return
        self._prepared.put(owner, place, True)

        async def embed_next() -> None:
            key = config.image_key
            following = await self._studio.next_images(project, source.task, count, key)
            self._images.embed_ahead(following)

        self._images.run_behind(embed_next)

    def _client(self) -> AsyncClient:
        """The client that waits: Label Studio shows a refusal as nothing."""
        return self._using(self._service.patient())

    def _using(self, client: AsyncClient) -> AsyncClient:
        """The client for the model that is set for Label Studio."""
        return client.using(model=self._service.model_for(MODEL_NAME))


def _source_of(index: int, task: Task, config: LabelConfig) -> ImageSource:
    field = f"tasks[{index}].data.{config.image_key}"
    return image_source(task.id, task.data, config.image_key, field)
