"""The models that one decoder answers for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from samserve.bundles.bundle import variant_versions
from samserve.core.errors import ModelNotFound
from samserve.decoder.sam.mask_decoder import MaskDecoder
from samserve.infra.metrics import MODEL_INFO

LEAST_BETWEEN = 5.0  # seconds from one look at a bundle's variants to the next


class ModelRegistry:
    """Decoders by the names that requests give them; the first is meant by an empty one."""

    def __init__(self, decoders: Iterable[MaskDecoder]) -> None:
        self._by_name = {decoder.bundle.name: decoder for decoder in decoders}
        self._versions = {name: decoder.bundle.versions for name, decoder in self._by_name.items()}
        self._looked: dict[str, float] = {}

    def named(self, model: str) -> MaskDecoder:
        """Raises ModelNotFound."""
        known = list(self._by_name)
        if model not in ("", *known):
            raise ModelNotFound(model, known)
        return self._by_name[model or known[0]]

    def versions(self, model: str) -> frozenset[str]:
        """Those of a model, by its name, whose embeddings are taken: of all its variants, whichever is served."""
        return self._versions[model]

    def of_version(self, model_version: str) -> MaskDecoder:
        """The one for an embedding that was found for one of these models: a version is of one model."""
        return next(
            self._by_name[name]
            for name, versions in self._versions.items()
            if model_version in versions
        )

    async def learn(self, model: str) -> bool:
        """Look for variants that a model has got since the start, such as an engine for another kind of GPU: whether
        there are any. Raises ModelNotFound.
        """
        bundle, now = self.named(model).bundle, time.monotonic()
        if now - self._looked.get(bundle.name, -LEAST_BETWEEN) < LEAST_BETWEEN:
            return False
        self._looked[bundle.name] = now
        found = await asyncio.to_thread(variant_versions, bundle.path)
        new = found - self._versions[bundle.name]
        self._versions[bundle.name] |= new
        self.tell()
        return bool(new)

    def tell(self) -> None:
        """Have the metrics name every version whose embeddings are taken, whatever variant made them."""
        for name, versions in self._versions.items():
            for version in versions:
                MODEL_INFO.labels(name, version, "", "").set(1)
