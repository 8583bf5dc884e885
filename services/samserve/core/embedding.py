"""An image's embedding: the named tensors that an encoder makes."""

from __future__ import annotations

from dataclasses import dataclass, field

from samserve.core.arrays import Halves
from samserve.core.geometry import Size


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one image by one version of a model.

    Attributes:
        model_version: The version whose encoder made it.
        size: Size of the oriented source image.
        tensors: fp16 arrays by name; for SAM {"embedding": [256, 64, 64]}.
        packed: The bytes that it was unpacked from, or none. They can be sent on as they are.
    """

    model_version: str
    size: Size
    tensors: dict[str, Halves]
    packed: bytes = field(default=b"", compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Memory of the tensors and of the packed bytes."""
        return len(self.packed) + sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class EmbeddingHeader:
    """An embedding without its tensors; attributes as of `Embedding`."""

    model_version: str
    size: Size
