"""The models that a decoder answers for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from samserve.bundles.bundle import variant_versions
from samserve.core.embedding import EmbeddingContract, SizeLimits
from samserve.core.errors import ModelNotFound
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.infra.metrics import MODEL_INFO

REFRESH_INTERVAL = 5.0  # seconds; a bundle's variants are not read more often


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, resolved once a call.

    Attributes:
        decoder: Answers prompts. The variants of a model share it.
        versions: Versions whose embeddings it accepts: those of all the model's variants.
    """

    decoder: MaskDecoder
    versions: frozenset[str]

    @property
    def name(self) -> str:
        """The name of its bundle."""
        return self.decoder.bundle.name

    @property
    def model_version(self) -> str:
        """The version that is served unless a request names another one."""
        return self.decoder.bundle.model_version

    @property
    def low_res(self) -> int:
        """Side of the low-res logits."""
        return self.decoder.bundle.low_res

    def contract(self, limits: SizeLimits) -> EmbeddingContract:
        """What the model's embeddings must be like, of images within these limits."""
        return EmbeddingContract(self.decoder.bundle.embedding, limits)


class ModelRegistry:
    """Models by name. An empty name means the first one."""

    def __init__(self, decoders: Iterable[MaskDecoder]) -> None:
        self._models = {
            decoder.bundle.name: ServedModel(decoder, decoder.bundle.versions)
            for decoder in decoders
        }
        self._refreshed: dict[str, float] = {}

    @property
    def served(self) -> list[ServedModel]:
        """The models; the first is the default."""
        return list(self._models.values())

    def resolve(self, name: str) -> ServedModel:
        """Return the model of this name.

        Raises:
            ModelNotFound: There is none.
        """
        model = self._models.get(name or next(iter(self._models)))
        if model is None:
            raise ModelNotFound(name, list(self._models))
        return model

    async def refresh(self, model: ServedModel) -> ServedModel | None:
        """Look for variants that were added since the start, such as an engine for another GPU.

        Returns:
            The model with the new versions, or None if there are none.
        """
        known = self._models[model.name]
        if known.versions != model.versions:
            return known  # another call has just found them

        now = time.monotonic()
        if now - self._refreshed.get(model.name, -REFRESH_INTERVAL) < REFRESH_INTERVAL:
            return None
        self._refreshed[model.name] = now

        versions = await asyncio.to_thread(variant_versions, model.decoder.bundle.path)
        if versions <= known.versions:
            return None

        refreshed = replace(known, versions=known.versions | versions)
        self._models[model.name] = refreshed
        self.publish_metrics()
        return refreshed

    def publish_metrics(self) -> None:
        """Set the metric of every version whose embeddings are accepted, of any variant."""
        for model in self._models.values():
            for version in model.versions:
                MODEL_INFO.labels(model.name, version, "", "").set(1)
