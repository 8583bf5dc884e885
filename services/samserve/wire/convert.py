"""Conversions between core's values and the messages of the protos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from samserve.core.cache_status import CacheStatus
from samserve.core.concept import Concept, Example
from samserve.core.geometry import Size
from samserve.v1 import types_pb2 as types


class EmbeddedImage(Protocol):
    """An embedding, its header, or an image prepared from it."""

    @property
    def model_version(self) -> str: ...
    @property
    def size(self) -> Size: ...


def image_ref(image_id: str, image: EmbeddedImage) -> types.ImageRef:
    """Return the reference by which later calls name the image."""
    return types.ImageRef(
        image_id=image_id,
        model_version=image.model_version,
        width=image.size.width,
        height=image.size.height,
    )


def stage_times(milliseconds: Mapping[str, float]) -> list[types.StageTime]:
    """Return a message for each stage of a call."""
    return [types.StageTime(stage=stage, milliseconds=ms) for stage, ms in milliseconds.items()]


def cache_status_to_proto(status: CacheStatus) -> str:
    """Return the name of the proto's value."""
    return f"CACHE_STATUS_{status.name}"


def cache_status_from_proto(status: types.CacheStatus) -> CacheStatus:
    """Return the value with the proto's name."""
    return CacheStatus[types.CacheStatus.Name(status).removeprefix("CACHE_STATUS_")]


def read_concept(concept: types.Concept) -> Concept:
    """Return what to look for, as it was sent."""
    return Concept(concept.text, read_examples(concept.examples))


def read_examples(examples: Iterable[types.Example]) -> tuple[Example, ...]:
    """Return examples as they were sent."""
    return tuple(
        Example((each.box.x0, each.box.y0, each.box.x1, each.box.y1), each.negative)
        for each in examples
    )


def write_examples(examples: Iterable[Example]) -> list[types.Example]:
    """Return examples as messages."""
    return [
        types.Example(
            box=types.Box(**dict(zip(("x0", "y0", "x1", "y1"), each.box, strict=True))),
            negative=each.negative,
        )
        for each in examples
    ]
