"""An image's embedding: the named tensors that an encoder makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from samserve.core.arrays import Halves
from samserve.core.geometry import Size

Shape = tuple[int, ...]

MOST_TEXT = 100  # characters of a text from an entry that an error repeats


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


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """Limits on the size of a source image; attributes as of `core.image.Limits`."""

    max_pixels: int = 40_000_000
    max_aspect: float = 64


DEFAULT_LIMITS = SizeLimits()


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """What an embedding must be like before it is used: whoever can write to the cache made it.

    Attributes:
        shapes: Shape of each tensor by name; empty if they are unknown.
        limits: On the size of the source image.
    """

    shapes: Mapping[str, Shape]
    limits: SizeLimits

    def problem(self, size: Size, shapes: Mapping[str, Shape]) -> str:
        """Return what is wrong with an embedding of this size and these shapes, or nothing."""
        short, long = sorted((size.width, size.height))
        limits = self.limits
        if short < 1 or size.pixels > limits.max_pixels or long > limits.max_aspect * short:
            text = f"{size.width} x {size.height}"[:MOST_TEXT]
            return (
                f"an image of {text} pixels; the limits are {limits.max_pixels:,} pixels "
                f"and a side ratio of {limits.max_aspect:g}:1"
            )

        if self.shapes and dict(shapes) != dict(self.shapes):
            return f"tensors {str(dict(shapes))[:MOST_TEXT]}; expected {dict(self.shapes)}"
        return ""
