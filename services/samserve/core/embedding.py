"""An image's embedding: named tensors of one model version."""

from __future__ import annotations

from dataclasses import dataclass, field

from samserve.core.arrays import Halves
from samserve.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Embedding:
    """tensors: name -> fp16 array, for SAM {"embedding": [256, 64, 64]}; size: the upright source image's; packed: what
    it was read from, if that is kept.
    """

    model_version: str
    size: Size
    tensors: dict[str, Halves]
    packed: bytes = field(default=b"", compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        return len(self.packed) + sum(t.nbytes for t in self.tensors.values())


@dataclass(frozen=True, slots=True)
class EmbeddingHeader:
    """What is known of a cached embedding without its tensors."""

    model_version: str
    size: Size
