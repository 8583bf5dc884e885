"""An image's embedding: the named tensors that an encoder makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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

    def problem(self, size: Size) -> str:
        """Return what is wrong with an image of this size, or nothing."""
        short, long = sorted((size.width, size.height))
        if short >= 1 and size.pixels <= self.max_pixels and long <= self.max_aspect * short:
            return ""
        text = f"{size.width} x {size.height}"[:MOST_TEXT]
        return (
            f"an image of {text} pixels; the limits are {self.max_pixels:,} pixels "
            f"and a side ratio of {self.max_aspect:g}:1"
        )


DEFAULT_LIMITS = SizeLimits()


class Contract(Protocol):
    """What an entry of the cache must be like before it is used."""

    def problem(self, size: Size, shapes: Mapping[str, Shape]) -> str:
        """Return what is wrong with an entry of this size and these shapes, or nothing."""


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """What an embedding must be like before it is used.

    Anyone who can write to the cache may have made it.

    Attributes:
        shapes: Shape of each tensor by name; empty if they are unknown.
        limits: On the size of the source image.
    """

    shapes: Mapping[str, Shape]
    limits: SizeLimits

    def problem(self, size: Size, shapes: Mapping[str, Shape]) -> str:
        """Return what is wrong with an embedding of this size and these shapes, or nothing."""
        if breach := self.limits.problem(size):
            return breach

        if self.shapes and dict(shapes) != dict(self.shapes):
            return f"tensors {str(dict(shapes))[:MOST_TEXT]}; expected {dict(self.shapes)}"
        return ""
