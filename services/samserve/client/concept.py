"""Concepts: phrases and examples to find on an image, and what was found of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from samserve.client.answer import Mask, read_mask
from samserve.client.prompt import BoxInput, read_box
from samserve.core.cache_status import CacheStatus
from samserve.core.errors import InvalidInput, SamserveError
from samserve.core.geometry import Size
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.convert import cache_status_from_proto
from samserve.wire.status import error_in

DECODER = "the decoder"


@dataclass(frozen=True, slots=True)
class Example:
    """An object on the image.

    Attributes:
        box: around it, as `Box` or (x0, y0, x1, y1).
        negative: True for one that is not meant, though it may look so.
    """

    box: BoxInput
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Concept:
    """A kind of object.

    Attributes:
        text: a short noun phrase, such as "yellow school bus"; may be empty with examples.
        examples: objects on the image, as `Example` or as the box of one that is meant.
        threshold: least score of an instance; None for the call's.
    """

    text: str = ""
    examples: Sequence[Example | BoxInput] = ()
    threshold: float | None = None


ConceptsInput: TypeAlias = str | Concept | Sequence[str | Concept]


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One instance of a concept.

    Attributes:
        score: how sure the model is, 0 to 1.
        box: the model's own x0, y0, x1, y1, in pixels of the oriented image.
        mask: the mask.
    """

    score: float
    box: tuple[float, float, float, float]
    mask: Mask


@dataclass(frozen=True, slots=True)
class ConceptFindings:
    """What was found of one concept.

    Attributes:
        presence: how sure the model is that the concept is on the image at all, 0 to 1.
        instances: best first.
        cut_off: whether there may be more instances.
        cache: whether the concept was a cache hit.
        error: why the concept failed, or None.
    """

    presence: float
    instances: list[FoundObject]
    cut_off: bool
    cache: CacheStatus
    error: SamserveError | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found on one image.

    Attributes:
        image_id: SHA-256 of the encoded bytes.
        model_version: the version of the model that embedded it.
        size: width and height of the oriented image.
        cache: whether the image was a cache hit.
        timings_ms: milliseconds by stage.
        results: one for each concept, in their order.
    """

    image_id: str
    model_version: str
    size: Size
    cache: CacheStatus
    timings_ms: dict[str, float]
    results: list[ConceptFindings]

    def as_json(self) -> dict[str, Any]:
        """The answer, as `samserve find --json` prints it."""
        return {
            "image_id": self.image_id,
            "model_version": self.model_version,
            "width": self.size.width,
            "height": self.size.height,
            "cache": self.cache.name,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "results": [_as_json(result) for result in self.results],
        }


def write_concepts(concepts: ConceptsInput) -> list[types.Concept]:
    """Convert to the proto. Raises InvalidInput for a value of the wrong type."""
    several = [concepts] if isinstance(concepts, (str, Concept)) else list(concepts)
    return [_write_concept(each, f"concepts[{index}]") for index, each in enumerate(several)]


def _write_concept(concept: Any, field: str) -> types.Concept:
    if isinstance(concept, str):
        concept = Concept(concept)
    if not isinstance(concept, Concept):
        kind = type(concept).__name__
        raise InvalidInput(field, f"{field} is a {kind}; expected a phrase or a Concept")
    return types.Concept(
        text=concept.text,
        examples=[
            _write_example(each, f"{field}.examples[{index}]")
            for index, each in enumerate(concept.examples)
        ],
        threshold=concept.threshold,
    )


def _write_example(example: Example | BoxInput, field: str) -> types.Example:
    if not isinstance(example, Example):
        example = Example(example)
    box = read_box(example.box, f"{field}.box")
    return types.Example(
        box=types.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1), negative=example.negative
    )


def read_findings(answer: pb.FindResponse) -> Findings:
    """Convert from the proto."""
    size = Size(answer.image.width, answer.image.height)
    return Findings(
        image_id=answer.image.image_id,
        model_version=answer.image.model_version,
        size=size,
        cache=cache_status_from_proto(answer.cache),
        timings_ms={timing.stage: timing.milliseconds for timing in answer.timings},
        results=[_read_result(result, size) for result in answer.results],
    )


def _read_result(result: pb.ConceptResult, size: Size) -> ConceptFindings:
    failed = result.HasField("error")
    return ConceptFindings(
        presence=result.presence,
        instances=[
            FoundObject(
                score=each.score,
                box=(each.box.x0, each.box.y0, each.box.x1, each.box.y1),
                mask=read_mask(each.mask, size),
            )
            for each in result.instances
        ],
        cut_off=result.cut_off,
        cache=CacheStatus.MISS if failed else cache_status_from_proto(result.cache),
        error=error_in(result.error, DECODER) if failed else None,
    )


def _as_json(result: ConceptFindings) -> dict[str, Any]:
    if result.error is not None:
        return {"error": str(result.error)}
    return {
        "presence": result.presence,
        "cut_off": result.cut_off,
        "cache": result.cache.name,
        "instances": [
            {"score": each.score, "box": list(each.box), **each.mask.as_json()}
            for each in result.instances
        ],
    }
