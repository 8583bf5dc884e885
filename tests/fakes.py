"""Fakes of the services' parts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from samserve.core.cache_status import CacheStatus
from samserve.core.crop import Crop
from samserve.core.detections import Detections
from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.core.errors import EmbeddingNotCached, ModelNotFound
from samserve.core.geometry import Frame, Size
from samserve.core.image import FramedImage, Limits, frame_image
from samserve.decoder.image_source import SourcedImage
from samserve.decoder.prompt import Prompt
from samserve.decoder.registry import ServedModel
from samserve.decoder.sam.mask_decoder import Candidates, MaskDecoder, ReadyImage
from samserve.embedding.admission import Priority
from samserve.embedding.concept_head import Phrase
from samserve.embedding.encoder import ConceptSpec, EncoderSpec
from samserve.infra.cache import CacheKey, Claim
from samserve.infra.deletions import Generation


class FakeCache:
    """A dictionary. With `down` it stores nothing, as an unreachable Redis. Claims never expire."""

    def __init__(self) -> None:
        self.entries: dict[CacheKey, Embedding] = {}
        self.claims: dict[CacheKey, str] = {}
        self.renewed = 0
        self.down = False
        self.marks: Generation = (None, None)

    async def head(self, key: CacheKey, contract: object = None) -> EmbeddingHeader | None:
        embedding = await self.get(key)
        if embedding is None:
            return None
        return EmbeddingHeader(embedding.model_version, embedding.size)

    async def get(self, key: CacheKey, contract: object = None) -> Embedding | None:
        return None if self.down else self.entries.get(key)

    async def read(
        self, key: CacheKey, contract: object = None
    ) -> tuple[Embedding | None, Generation | None]:
        return await self.get(key, contract), self.marks

    async def generation(self, key: CacheKey) -> Generation | None:
        return self.marks

    async def delete_image(self, owner: str, image_id: str) -> int:
        self.marks = (b"deleted", None)
        gone = [key for key in self.entries if (key.owner, key.whole) == (owner, image_id)]
        return len([self.entries.pop(key) for key in gone])

    async def delete_owner(self, owner: str) -> int:
        gone = [key for key in self.entries if key.owner == owner]
        return len([self.entries.pop(key) for key in gone])

    async def put(
        self, key: CacheKey, embedding: Embedding, generation: Generation | None = None
    ) -> None:
        if generation not in (None, self.marks):
            return
        if not self.down:
            self.entries[key] = embedding

    async def delete(self, key: CacheKey) -> bool:
        return self.entries.pop(key, None) is not None

    async def claim(self, key: CacheKey, token: str, seconds: float) -> Claim:
        await asyncio.sleep(0)
        if self.down:
            return Claim.ALONE
        if key in self.entries:
            return Claim.STORED
        return Claim.GRANTED if self.claims.setdefault(key, token) == token else Claim.HELD

    async def renew(self, key: CacheKey, token: str, seconds: float) -> None:
        self.renewed += self.claims.get(key) == token

    async def release(self, key: CacheKey, token: str) -> None:
        await asyncio.sleep(0)
        if self.claims.get(key) == token:
            del self.claims[key]


class FakeEncoder:
    """Embeds an image as shades of its mean colour. Counts its runs; tests can hold them."""

    def __init__(self, knows_concepts: bool = False) -> None:
        self.knows_concepts = knows_concepts
        self.encoded = 0
        self.channels = 4
        self.failure: Exception | None = None
        self.busy, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()
        self.asked: list[tuple[Priority, float]] = []

    async def spec(self, model: str) -> EncoderSpec:
        name = model or "nano"
        if name not in ("nano", "twin"):
            raise ModelNotFound(name, ["nano", "twin"])
        spec = EncoderSpec(name, f"{name}-test", Frame(64), ("embedding",), "fp32", "onnxruntime")
        if not self.knows_concepts:
            return spec
        head = ConceptSpec(f"{name}-head", top=3, tokens=8, words=600, side=8)
        return replace(spec, trunk=(4, 8, 8), concepts=head)

    async def encode(
        self, spec: EncoderSpec, image: FramedImage, priority: Priority, seconds: float
    ) -> dict[str, np.ndarray]:
        self.asked.append((priority, seconds))
        self.busy.set()
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.encoded += 1
        shades = image.pixels.mean() + np.arange(64.0).reshape(8, 8)
        tensors = {"embedding": np.tile(shades.astype(np.float16), (self.channels, 1, 1))}
        return tensors | ({"trunk": tensors["embedding"]} if spec.trunk else {})


class FakeHead:
    """Finds two instances of every concept. Counts its runs; tests can hold them."""

    def __init__(self) -> None:
        self.phrases: list[tuple[int, ...]] = []
        self.runs: list[int] = []  # concepts of each
        self.failure: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def embed_text(self, model: str, spec: ConceptSpec, tokens: Sequence[int]) -> np.ndarray:
        self.phrases.append(tuple(tokens))
        return np.full((len(tokens), 4), sum(tokens) % 100, np.float16)

    async def find(
        self,
        model: str,
        spec: ConceptSpec,
        trunk: np.ndarray,
        size: Size,
        phrases: Sequence[Phrase],
    ) -> list[Detections]:
        self.runs.append(len(phrases))
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        boxes = np.array([[0, 0, size.width / 2, size.height], [0, 0, 1, 1]], np.float32)
        return [
            Detections(
                presence=0.9,
                scores=np.array([0.8, 0.3], np.float32),
                boxes=boxes,
                logits=np.full((2, spec.side, spec.side), phrase.features[0, 0], np.float16),
            )
            for phrase in phrases
        ]


class InProcessDecoder:
    """Decodes images at once, in this process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def frame(self, data: bytes, frame: Frame, crop: Crop | None = None) -> FramedImage:
        return frame_image(data, frame, self._limits, crop=crop)


class HeldDecoder:
    """A real decoder that a test can hold. Remembers the prompts that it decoded."""

    def __init__(self, decoder: MaskDecoder) -> None:
        self._decoder, self.bundle = decoder, decoder.bundle
        self.has_kernel = decoder.has_kernel
        self.decoded: list[Prompt] = []
        self.busy, self.go = threading.Event(), threading.Event()
        self.go.set()

    def decode_patiently(
        self, image: ReadyImage, prompt: Prompt, pause: Callable[[], None], least_iou: float
    ) -> Candidates:
        pause()
        self.decoded.append(prompt)
        self.busy.set()
        assert self.go.wait(60)
        return self._decoder.decode_patiently(image, prompt, pause, least_iou)

    def decode(self, image: ReadyImage, prompts: list[Prompt]) -> list[Candidates]:
        self.decoded += prompts
        self.busy.set()
        assert self.go.wait(60)
        return self._decoder.decode(image, prompts)


class FakeEmbeddings:
    """Has one image under every id in `known`, and under others once their bytes are sent."""

    def __init__(self, image: ReadyImage) -> None:
        self.image = image
        self.known: set[str] = set()
        self.failure: Exception | None = None
        self.looked_for = 0

    def version_served(self, model: ServedModel) -> str:
        return model.model_version

    async def find(
        self,
        key: CacheKey,
        model: ServedModel,
        data: bytes | None,
        crop: Crop | None = None,
    ) -> SourcedImage:
        self.looked_for += 1
        if self.failure is not None:
            raise self.failure
        hit = key.image_id in self.known
        if not hit and data is None:
            raise EmbeddingNotCached(key.image_id)
        self.known.add(key.image_id)
        return SourcedImage(
            self.image, CacheStatus.HIT if hit else CacheStatus.MISS, {} if hit else {"encode": 1.0}
        )
