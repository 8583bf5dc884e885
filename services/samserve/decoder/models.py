"""The models that one decoder answers for."""

from __future__ import annotations

from collections.abc import Iterable

from samserve.core.errors import ModelNotFound
from samserve.core.telemetry import MODEL_INFO
from samserve.decoder.mask_decoder import MaskDecoder


class Models:
    """Decoders by the names that requests give them; the first is meant by an empty one."""

    def __init__(self, decoders: Iterable[MaskDecoder]) -> None:
        self._by_name = {decoder.bundle.name: decoder for decoder in decoders}
        self._by_version = {
            version: decoder for decoder in self._by_name.values() for version in decoder.bundle.versions
        }

    def named(self, model: str) -> MaskDecoder:
        """Raises ModelNotFound."""
        known = list(self._by_name)
        if model not in ("", *known):
            raise ModelNotFound(model, known)
        return self._by_name[model or known[0]]

    def of_version(self, model_version: str) -> MaskDecoder:
        """The one for an embedding that was found for one of these models: a version is of one model."""
        return self._by_version[model_version]

    def tell(self) -> None:
        """Have the metrics name every version whose embeddings are taken, whatever variant made them."""
        for version, decoder in self._by_version.items():
            MODEL_INFO.labels(decoder.bundle.name, version, "", "").set(1)
