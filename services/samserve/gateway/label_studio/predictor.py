"""Answers predictions: one task with the annotator's regions, or a batch of tasks without."""

from __future__ import annotations

import asyncio
from typing import Any

from samserve.client import AsyncClient, CachedImage, Mask
from samserve.core.errors import EmbeddingNotCached, InvalidInput
from samserve.gateway.label_studio.config import LabelConfig, parse_label_config
from samserve.gateway.label_studio.images import KnownImages
from samserve.gateway.label_studio.messages import ContextRegion, PredictRequest
from samserve.gateway.label_studio.prompts import object_prompts
from samserve.gateway.label_studio.regions import FORMATS, regions, score_of
from samserve.gateway.label_studio.studio import ImageSource, LabelStudio, image_source
from samserve.gateway.service import Service

MODEL_NAME = "label-studio"  # in SAMSERVE_GATEWAY_MODELS
POLYGON_TOLERANCE = 1.0  # pixels

Result = dict[str, Any]


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
        self._prepared = (0, 0)  # project and task whose next images were asked for last

    async def close(self) -> None:
        await self._images.close()
        await self._studio.close()

    async def predict(self, request: PredictRequest) -> list[Result]:
        """Return a result for each task.

        Raises:
            SamserveError: The request is invalid, or an image or a service is not available.
        """
        config = parse_label_config(request.label_config)
        sources = [
            image_source(
                task.id, task.data, config.image_key, f"tasks[{index}].data.{config.image_key}"
            )
            for index, task in enumerate(request.tasks)
        ]

        context = request.params.context
        if context is None:
            return await self._predict_batch(sources, config)
        if len(sources) != 1:
            raise InvalidInput("tasks", f"tasks: {len(sources)} with a context; send one")
        self._embed_next(request.project_id, sources[0], config)
        return [await self._predict_one(context.result, sources[0], config)]

    async def _predict_one(
        self, marked: list[ContextRegion], source: ImageSource, config: LabelConfig
    ) -> Result:
        """Answer the annotator's regions."""
        if not marked:
            await self._images.get(source)  # a region will follow
            return self._result([], [])

        try:
            found = await self._segment(marked, source, config)
        except EmbeddingNotCached:  # it left the cache since the last click
            self._images.forget(source)
            found = await self._segment(marked, source, config)
        return await asyncio.to_thread(self._write, found, config)

    async def _segment(
        self, marked: list[ContextRegion], source: ImageSource, config: LabelConfig
    ) -> list[tuple[Mask, str]]:
        """Return the best mask of each object, with its label."""
        image = await self._images.get(source)
        objects = object_prompts(marked, image.size)
        answer = await self._client().predict(
            CachedImage(image.image_id),
            [each.prompt for each in objects],
            formats=FORMATS[config.output.kind],
            polygon_tolerance=POLYGON_TOLERANCE,
            max_masks=1,
        )
        return [(masks[0], each.label) for each, masks in zip(objects, answer.results, strict=True)]

    def _write(self, found: list[tuple[Mask, str]], config: LabelConfig) -> Result:
        """Write masks as regions. Takes milliseconds for each."""
        written: list[Result] = []
        for mask, label in found:
            written += regions(mask, config.output, label)
        return self._result(written, [score_of(mask) for mask, _ in found])

    async def _predict_batch(self, sources: list[ImageSource], config: LabelConfig) -> list[Result]:
        """Segment everything in each task's image. Without that service, embed the images ahead."""
        generate = getattr(self._client(), "generate_masks", None)
        if generate is None:
            self._images.embed_ahead(sources)
            return [self._result([], []) for _ in sources]

        results = []
        for source in sources:
            image = CachedImage((await self._images.get(source)).image_id)
            masks = await generate(image, formats=FORMATS[config.output.kind])
            results.append(
                await asyncio.to_thread(self._write, [(mask, "") for mask in masks], config)
            )
        return results

    def _result(self, written: list[Result], scores: list[float]) -> Result:
        score = round(sum(scores) / len(scores), 4) if scores else 0.0
        return {"result": written, "score": score, "model_version": self._version}

    def _embed_next(self, project: int, source: ImageSource, config: LabelConfig) -> None:
        """Embed the images of the next tasks ahead; once for each task, not for each click."""
        count = self._service.settings.label_studio_prewarm
        place = (project, source.task)
        if not (self._studio.is_configured and count and project) or place == self._prepared:
            return
        self._prepared = place

        async def embed_next() -> None:
            key = config.image_key
            following = await self._studio.next_images(project, source.task, count, key)
            self._images.embed_ahead(following)

        self._images.run_behind(embed_next())

    def _client(self) -> AsyncClient:
        """The client that waits: Label Studio shows a refusal as nothing."""
        return self._service.patient().using(model=self._service.model_for(MODEL_NAME))
