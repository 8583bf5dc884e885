"""An image that is ready for prompts."""

from __future__ import annotations

from dataclasses import dataclass

from samserve.core.arrays import Array, Floats
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """The part of a prompt's work that depends on the image alone.

    Attributes:
        x: The image as the kernel reads it, [tiles, 256, 64].
        parts: Arrays by their names in decode_job.h: 16-bit projections of the image with a scale
            per row, fp32 sums for the norms, and SAM 2's finer maps in fp16.
    """

    x: Floats
    parts: dict[str, Array]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.x.nbytes + sum(array.nbytes for array in self.parts.values())


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """An embedding and what was prepared from it."""

    embedding: Embedding
    prepared: PreparedImage

    @property
    def size(self) -> Size:
        """Of the source image."""
        return self.embedding.size

    @property
    def model_version(self) -> str:
        """The version that made the embedding."""
        return self.embedding.model_version

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.embedding.nbytes + self.prepared.nbytes
