"""Concepts of the REST interface: requests, answers, and how they are written."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import BaseModel, Field, model_validator

from samserve.client import AsyncClient, CachedImage, Concept, ConceptFindings, Example, Findings
from samserve.core.limits import MAX_CONCEPT_TEXT, MAX_CONCEPTS, MAX_EXAMPLES, MAX_FORMATS
from samserve.gateway.problem import problem_of
from samserve.gateway.rest.answers import json_response, problem_json
from samserve.gateway.rest.masks import image_json, mask_json, wire_formats
from samserve.gateway.rest.models import Format, MaskModel, Name, Number, Strict

MAX_INSTANCES = 200  # of a concept, more than any head can tell

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ExampleModel(Strict):
    """An object on the image."""

    box: Annotated[list[Number], Field(min_length=4, max_length=4)] = Field(
        description="x0, y0, x1, y1."
    )
    negative: bool = Field(default=False, description="Whether it is none of those meant.")


class ConceptModel(Strict):
    """A kind of object: a phrase, examples, or both."""

    text: str = Field(default="", max_length=MAX_CONCEPT_TEXT)
    examples: list[ExampleModel] = Field(default=[], max_length=MAX_EXAMPLES)
    threshold: Share | None = Field(default=None, description="Least score; absent: the call's.")

    @model_validator(mode="after")
    def _check_not_empty(self) -> ConceptModel:
        if not (self.text.strip() or self.examples):
            raise ValueError("give a text or examples")
        return self

    def concept(self) -> Concept:
        """Convert for the client."""
        examples = [Example(each.box, each.negative) for each in self.examples]
        return Concept(self.text, examples, self.threshold)


class ConceptsRequest(Strict):
    """Concepts to find on one image."""

    concepts: list[ConceptModel] = Field(min_length=1, max_length=MAX_CONCEPTS)
    threshold: Share | None = Field(default=None, description="Least score; absent: the model's.")
    max_overlap: Share = Field(
        default=0, description="IoU from which the lower-scored of two masks is left out; 0: none."
    )
    formats: list[Format] = Field(default=["rle"], max_length=MAX_FORMATS)
    polygon_tolerance: Number = Field(
        default=1, ge=0, description="Pixels that a polygon may differ from the mask's edge."
    )
    max_masks: int = Field(
        default=0, ge=0, le=MAX_INSTANCES, description="Instances of a concept; 0: all."
    )
    low_res_logits: bool = Field(default=False, description="Whether masks come with logits.")
    model: Name = Field(default="", description="Empty: the default model.")


class InstanceModel(BaseModel):
    """One instance: the model's score and box, and the mask."""

    score: float
    box: list[float]
    mask: MaskModel


class ConceptAnswer(BaseModel):
    """What was found of one concept, or why it failed."""

    presence: float | None = Field(default=None, description="Whether there is any, 0 to 1.")
    instances: list[InstanceModel] | None = None
    cut_off: bool | None = Field(default=None, description="Whether there may be more.")
    cache: Literal["HIT", "MISS", "COALESCED"] | None = None
    problem: dict[str, Any] | None = None


class ConceptsAnswer(BaseModel):
    """One result for each concept."""

    image_id: str
    width: int
    height: int
    model_version: str
    cache: Literal["HIT", "MISS", "COALESCED"]
    timings_ms: dict[str, float]
    results: list[ConceptAnswer]


async def find_concepts(
    client: AsyncClient, image: CachedImage, asked: ConceptsRequest
) -> Response:
    """Answer a request."""
    found = await client.find(
        image,
        [each.concept() for each in asked.concepts],
        threshold=asked.threshold,
        max_overlap=asked.max_overlap,
        low_res_logits=asked.low_res_logits,
        formats=wire_formats(asked.formats),
        polygon_tolerance=asked.polygon_tolerance,
        max_masks=asked.max_masks,
    )
    return await asyncio.to_thread(lambda: json_response(_findings_json(found, asked.formats)))


def _findings_json(found: Findings, formats: list[Format]) -> dict[str, Any]:
    results = [_result_json(result, formats) for result in found.results]
    return {**image_json(found), "results": results}


def _result_json(result: ConceptFindings, formats: list[Format]) -> dict[str, Any]:
    if result.error is not None:
        return {"problem": problem_json(problem_of(result.error))}
    return {
        "presence": result.presence,
        "cut_off": result.cut_off,
        "cache": result.cache.name,
        "instances": [
            {"score": each.score, "box": each.box, "mask": mask_json(each.mask, formats)}
            for each in result.instances
        ],
    }
