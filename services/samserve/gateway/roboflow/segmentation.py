"""Embeds images and answers prompts as Roboflow's server does."""

from __future__ import annotations

import asyncio
import time
from itertools import zip_longest
from typing import Any

import numpy as np
import orjson
from fastapi import Response

from samserve.client import Answer, Box, Concept, Example, Findings, Mask, Prompt
from samserve.core.errors import InvalidInput
from samserve.gateway.clamped import predict_clamped
from samserve.gateway.roboflow.answers import (
    best,
    longest_polygon,
    low_res_polygon,
    npy,
    npz,
    prediction,
)
from samserve.gateway.roboflow.images import Images
from samserve.gateway.roboflow.prompts import read_prompts, read_sam_prompts
from samserve.gateway.roboflow.requests import (
    BoxOfCorners,
    BoxOfSides,
    ConceptPrompt,
    ConceptRequest,
    Format,
    ImageCall,
    SamEmbedRequest,
    SamSegmentRequest,
    SegmentRequest,
)
from samserve.gateway.service import Service

BYTES = "application/octet-stream"


class Segmentation:
    """Answers the calls about images. One for each process."""

    def __init__(self, service: Service, images: Images) -> None:
        self._service = service
        self._images = images

    async def embed(self, call: ImageCall, version: str, key: str) -> Response:
        """Embed an image; answer the name for later calls: the caller's, or its hash."""
        started = time.perf_counter()
        image = await self._images.find(call, key)
        answer = await self._service.patient().using(model=self._model(call, version)).embed(image)
        self._images.remember(call, key, answer.image_id)
        return _json(
            {"image_id": call.image_id or answer.image_id, "time": time.perf_counter() - started}
        )

    async def embed_sam(self, call: SamEmbedRequest, key: str) -> Response:
        """Embed an image; answer the embedding itself, float32 [1, 256, 64, 64]."""
        started = time.perf_counter()
        image = await self._images.find(call, key)
        client = self._service.patient().using(model=self._model(call, call.sam_version_id))
        if call.image_id and call.image is not None:
            answer = await client.embed(image)
            self._images.remember(call, key, answer.image_id)
        tensors = (await client.embedding(image)).tensors
        array = next(iter(tensors.values()))[None].astype(np.float32)

        if call.format == "binary":
            return Response(await asyncio.to_thread(npy, array), media_type=BYTES)
        content = {"embeddings": array, "time": time.perf_counter() - started}
        return await asyncio.to_thread(_json, content)

    async def segment_sam(self, call: SamSegmentRequest, key: str) -> Response:
        """Answer one prompt with the four masks of SAM's exported decoder, in its order."""
        started = time.perf_counter()
        prompts = await asyncio.to_thread(read_sam_prompts, call)
        answer = await self._predict(call, call.sam_version_id, prompts, key, low_res_logits=True)
        masks = [
            mask
            for result in answer.results
            for mask in sorted(result, key=lambda mask: mask.candidate)
        ]
        return await asyncio.to_thread(_write_sam, masks, call.format, started)

    async def segment(self, call: SegmentRequest, version: str, key: str) -> Response:
        """Answer each prompt with its candidate of the highest predicted IoU."""
        started = time.perf_counter()
        prompts = read_prompts(call)
        binary = call.format == "binary"
        answer = await self._predict(call, version, prompts, key, low_res_logits=binary)
        masks = [best(result) for result in answer.results]
        return await asyncio.to_thread(_write, masks, call, started)

    async def find(self, call: ConceptRequest, key: str) -> Response:
        """Find concepts; each prompt gets its own predictions."""
        started = time.perf_counter()
        image = await self._images.find(call, key)
        client = self._service.patient().using(model=self._model(call, ""))
        found = await client.find(
            image,
            [_concept(prompt, index) for index, prompt in enumerate(call.prompts)],
            threshold=call.output_prob_thresh,
            max_overlap=call.nms_iou_threshold or 0,
        )
        self._images.remember(call, key, found.image_id)
        for result in found.results:
            if result.error is not None:
                raise result.error
        return await asyncio.to_thread(_write_concepts, found, call, started)

    async def _predict(
        self,
        call: ImageCall,
        version: str,
        prompts: list[Prompt],
        key: str,
        *,
        low_res_logits: bool,
    ) -> Answer:
        image = await self._images.find(call, key)
        client = self._service.patient().using(model=self._model(call, version))
        answer = await predict_clamped(client, image, prompts, low_res_logits=low_res_logits)
        self._images.remember(call, key, answer.image_id)
        return answer

    def _model(self, call: ImageCall, version: str) -> str:
        """Return our model for `sam2/hiera_tiny`, or for the version alone."""
        return self._service.model_for((call.model_id or version).rpartition("/")[2])


def _concept(prompt: ConceptPrompt, index: int) -> Concept:
    """Convert for the client. Raises InvalidInput."""
    boxes, labels = prompt.boxes or [], prompt.box_labels or []
    if labels and len(labels) != len(boxes):
        field = f"prompts[{index}].box_labels"
        raise InvalidInput(field, f"{field}: {len(labels)} labels for {len(boxes)} boxes")

    examples = [
        Example(_corners(box), negative=label == 0)
        for box, label in zip_longest(boxes, labels, fillvalue=1)
        if not isinstance(box, int)
    ]
    return Concept(prompt.text or "", examples, prompt.output_prob_thresh)


def _corners(box: BoxOfSides | BoxOfCorners) -> Box:
    if isinstance(box, BoxOfCorners):
        return Box(box.x0, box.y0, box.x1, box.y1)
    return Box(box.x, box.y, box.x + box.width, box.y + box.height)


def _write_concepts(found: Findings, call: ConceptRequest, started: float) -> Response:
    results = []
    for index, (prompt, result) in enumerate(zip(call.prompts, found.results, strict=True)):
        form: Format = "rle" if call.format == "rle" else "json"
        predictions = [
            {**prediction(each.mask, form), "confidence": each.score} for each in result.instances
        ]
        echo = {"prompt_index": index, "type": prompt.type, "text": prompt.text}
        results.append({"prompt_index": index, "echo": echo, "predictions": predictions})
    return _json({"prompt_results": results, "time": time.perf_counter() - started})


def _write(masks: list[Mask], call: SegmentRequest, started: float) -> Response:
    if call.format == "binary":
        return Response(npz(masks), media_type=BYTES)
    predictions = [prediction(mask, call.format) for mask in masks]
    return _json({"predictions": predictions, "time": time.perf_counter() - started})


def _write_sam(masks: list[Mask], form: str, started: float) -> Response:
    if form == "binary":
        return Response(npz(masks), media_type=BYTES)
    return _json(
        {
            "masks": [longest_polygon(mask) for mask in masks],
            "low_res_masks": [low_res_polygon(mask) for mask in masks],
            "time": time.perf_counter() - started,
        }
    )


def _json(content: dict[str, Any]) -> Response:
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )
