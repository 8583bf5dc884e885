"""A client without services: it draws rings where prompts point."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, FastAPI
from PIL import Image
from samserve.client import (
    Answer,
    AsyncClient,
    Box,
    CachedImage,
    Click,
    Concept,
    ConceptFindings,
    EmbedAnswer,
    Findings,
    FoundObject,
    Mask,
    Prompt,
)
from samserve.client.answer import Model
from samserve.client.everything import DEFAULT_GRID, Everything, GridOptions, Record
from samserve.client.prompt import write_prompts
from samserve.core import runs
from samserve.core.arrays import Floats
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.errors import EmbeddingNotCached, InvalidInput, ModelNotFound, NoConcepts
from samserve.core.geometry import Size
from samserve.core.image_id import image_id
from samserve.core.rle import encode_rle
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings

LOW_RES = 256
VERSION = "nano-test"

# Of each candidate: predicted IoU, stability, and the ring's outer radius as a share of the image.
CANDIDATES = ((0.7, 0.99, 0.2), (0.9, 0.5, 0.3), (0.8, 0.95, 0.4))


@dataclass
class FakeClient:
    """Answers as `AsyncClient` does. All handles share the images and the prompts asked."""

    model: str = ""
    candidates: tuple[tuple[float, float, float], ...] = CANDIDATES
    images: dict[str, Size] = field(default_factory=dict)
    asked: list[Prompt] = field(default_factory=list)
    concepts: list[Concept] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)

    def using(self, *, model: str | None = None, timeout: float = 0, **_: Any) -> FakeClient:
        if timeout:
            self.timeouts.append(timeout)
        chosen = self.model if model is None else model
        return replace(self, model=chosen)

    async def close(self) -> None:
        pass

    async def models(self) -> list[Model]:
        return [Model("nano", VERSION, 1024, LOW_RES), Model("sam-b", VERSION, 1024, LOW_RES)]

    async def embed(self, image: bytes | CachedImage) -> EmbedAnswer:
        name = self._find(image)
        return EmbedAnswer(name, VERSION, self.images[name], CacheStatus.MISS, {})

    async def embedding(self, image: bytes | CachedImage) -> Embedding:
        size = self.images[self._find(image)]
        tensor = np.arange(256 * 64 * 64, dtype=np.float32).reshape(256, 64, 64) % 100
        return Embedding(VERSION, size, {"embedding": tensor.astype(np.float16)})

    async def predict(
        self,
        image: bytes | CachedImage,
        prompts: Sequence[Prompt],
        *,
        low_res_logits: bool = False,
        max_masks: int = 0,
        clamp: bool = False,
    ) -> Answer:
        name = self._find(image)
        size = self.images[name]
        for index, prompt in enumerate(prompts):
            _check_inside(prompt, size, f"prompts[{index}]", clamp)
        self.asked += prompts
        drawn = [_cut(prompt, size) for prompt in prompts]
        results = [_masks(prompt, size, self.candidates)[: max_masks or None] for prompt in drawn]
        return Answer(name, VERSION, size, CacheStatus.HIT, {}, results)

    async def find(
        self,
        image: bytes | CachedImage,
        concepts: Sequence[Concept],
        *,
        threshold: float | None = None,
        max_overlap: float = 0,
        formats: Sequence[str] = ("rle",),
        **_: Any,
    ) -> Findings:
        """Find a ring for each concept; "bad" fails alone, and sam-b knows no concepts."""
        if self.model == "sam-b":
            raise NoConcepts("sam-b", ["nano"])
        name = self._find(image)
        size = self.images[name]
        self.concepts += concepts
        results = []
        for index, concept in enumerate(concepts):
            if concept.text == "bad":
                error = InvalidInput(f"concepts[{index}].text", f"concepts[{index}].text: bad")
                results.append(ConceptFindings(0, [], False, CacheStatus.MISS, error))
                continue
            prompt = Prompt([Click(size.width / 2, size.height / 2)])
            mask = _masks(prompt, size, self.candidates)[0]
            found = FoundObject(0.75, (1.0, 2.0, 3.0, 4.0), mask)
            results.append(ConceptFindings(0.9, [found], False, CacheStatus.HIT))
        return Findings(name, VERSION, size, CacheStatus.HIT, {}, results)

    async def generate_masks(
        self, image: bytes | CachedImage, options: GridOptions = DEFAULT_GRID
    ) -> Everything:
        """Find a ring around each of two points."""
        size = self.images[self._find(image)]
        width, height = size.width, size.height
        points = [(width // 4, height // 2), (3 * width // 4, height // 2)]
        answer = await self.predict(
            image, [Prompt([Click(*point)]) for point in points], max_masks=1
        )
        records = [
            Record(masks[0], point, (0, 0, width, height))
            for masks, point in zip(answer.results, points, strict=True)
            if masks[0].predicted_iou > (options.pred_iou_thresh or 0)
        ]
        facts = (answer.image_id, answer.model_version, answer.size, answer.cache, {})
        return Everything(*facts, records, len(records))

    def _find(self, image: bytes | CachedImage) -> str:
        if self.model not in ("", "nano", "sam-b"):
            raise ModelNotFound(self.model, ["nano", "sam-b"])
        if isinstance(image, CachedImage):
            if image.image_id not in self.images:
                raise EmbeddingNotCached(image.image_id)
            return image.image_id
        try:
            size = Size(*Image.open(io.BytesIO(image)).size)
        except OSError as problem:
            raise InvalidInput("image", "unsupported or damaged image") from problem
        self.images[image_id(image)] = size
        return image_id(image)


def app_of(routes: Callable[[Service], APIRouter], service: Service) -> FastAPI:
    """Return an application of one surface."""
    app = FastAPI()
    app.include_router(routes(service))
    return app


def fake_service(settings: GatewaySettings, client: FakeClient | None = None) -> Service:
    """Return a gateway's state with such a client."""
    return Service(settings, cast(AsyncClient, client or FakeClient()))


def _check_inside(prompt: Prompt, size: Size, name: str, clamp: bool) -> None:
    for click in prompt.points:
        assert isinstance(click, Click)
        if not (0 <= click.x <= size.width and 0 <= click.y <= size.height):
            raise InvalidInput(
                f"{name}.points", f"points outside the image, {size.width} x {size.height} pixels"
            )
    box = prompt.box
    if box is None or clamp:
        return
    assert isinstance(box, Box)
    if box.x0 < 0 or box.y0 < 0 or box.x1 > size.width or box.y1 > size.height:
        raise InvalidInput(f"{name}.box", "the box is outside the image")


def _cut(prompt: Prompt, size: Size) -> Prompt:
    """Cut a box off at the image's edges, as the client does."""
    if prompt.box is None:
        return prompt
    box = write_prompts([prompt], size)[0].box
    return replace(prompt, box=Box(box.x0, box.y0, box.x1, box.y1))


def _masks(
    prompt: Prompt, size: Size, candidates: tuple[tuple[float, float, float], ...]
) -> list[Mask]:
    if prompt.multimask is False:
        candidates = candidates[:1]
    masks = [_mask(prompt, size, index, *candidate) for index, candidate in enumerate(candidates)]
    return sorted(masks, key=lambda mask: -mask.predicted_iou * mask.stability_score)


def _mask(
    prompt: Prompt, size: Size, candidate: int, iou: float, stability: float, radius: float
) -> Mask:
    """Draw a ring around the middle of the prompt, and a small disc at the top left."""
    pixels = _ring(prompt, size, radius, size.width, size.height) > 0
    logits = _ring(prompt, size, radius, LOW_RES, LOW_RES).astype("<f2")
    mask = runs.runs_of(pixels)
    box = runs.box(mask)
    return Mask(
        size=size,
        rle=encode_rle(mask),
        predicted_iou=iou,
        stability_score=stability,
        area=runs.area(mask),
        bbox=(box.x0, box.y0, box.x1, box.y1),
        low_res_logits=logits.tobytes(),
        png=b"",
        polygons=[],
        bits=b"",
        candidate=candidate,
    )


def _ring(prompt: Prompt, size: Size, radius: float, columns: int, rows: int) -> Floats:
    """Return logits [rows, columns]; a mask that is sent makes the ring wider."""
    if isinstance(prompt.box, Box):
        x, y = (prompt.box.x0 + prompt.box.x1) / 2, (prompt.box.y0 + prompt.box.y1) / 2
    else:
        on = [click for click in prompt.points if isinstance(click, Click) and click.on]
        x, y = (on[0].x, on[0].y) if on else (size.width / 2, size.height / 2)
    sent = np.frombuffer(bytes(prompt.mask_input), "<f2")
    radius = size.height * (radius + (0.1 * float((sent > 0).mean()) if len(sent) else 0.0))

    row, column = np.mgrid[:rows, :columns]
    across = (column + 0.5) * size.width / columns
    down = (row + 0.5) * size.height / rows
    distance = np.hypot(across - x, down - y)
    ring = np.minimum(radius - distance, distance - radius / 3)
    disc = size.height / 12 - np.hypot(across - size.height / 8, down - size.height / 8)
    logits: Floats = np.maximum(ring, disc).astype(np.float32)
    return logits
