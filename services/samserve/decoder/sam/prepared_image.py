"""An image on which prompts can be decoded at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from samserve.core.embedding import Embedding
from samserve.core.geometry import Size


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """What of a prompt's work depends on the image alone: parts for the kernel, by its names, 16-bit integers with the
    scales of their channels [8, 1, 16], and SAM 2's finer maps, fp16; x: the image itself [tiles, 256, 64].
    """

    x: NDArray[Any]
    parts: dict[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return self.x.nbytes + sum(array.nbytes for array in self.parts.values())


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """An embedding and what was prepared from it."""

    embedding: Embedding
    prepared: PreparedImage

    @property
    def size(self) -> Size:
        return self.embedding.size

    @property
    def model_version(self) -> str:
        return self.embedding.model_version

    @property
    def nbytes(self) -> int:
        return self.embedding.nbytes + self.prepared.nbytes
