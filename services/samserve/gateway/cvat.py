"""Serverless functions as open-source CVAT calls them: the part of Nuclio's dashboard it needs.

CVAT takes the address of a Nuclio dashboard. It lists functions, and sends a frame and clicks to
one of them by name. Here each served model is a function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from samserve.client import GridOptions, Mask, Prompt
from samserve.core.contours import area, external_contours
from samserve.core.errors import InvalidInput, ModelNotFound, SamserveError
from samserve.gateway.base64_image import decode_image
from samserve.gateway.clamped import predict_clamped
from samserve.gateway.message import MESSAGES, write_message
from samserve.gateway.rest.answers import json_response
from samserve.gateway.route import surface
from samserve.gateway.service import Service
from samserve.integrations.cvat_masks import encode_runs, write_confidence, write_pixels, write_rows
from samserve.integrations.cvat_prompt import read_prompt

FUNCTION = "samserve"  # with the default model; those with others have the model's name behind it
DETECTOR = "samserve-everything"
LABEL = "object"
PREFIXES = ("", "/cvat")  # CVAT's settings have no path; a proxy may add one

MAX_POINTS = 64
MAX_DETECTED_PIXELS = 2**25  # in the boxes of all masks of a detection, two bytes each
CONFIDENCE = 0  # CVAT's number of this attribute
INTERFACE = "2"  # below it CVAT's page warns

INTERACTOR_NOTES = {
    "type": "interactor",
    "version": INTERFACE,
    "spec": "",
    "min_pos_points": "0",
    "min_neg_points": "0",
    "startswith_box_optional": "true",
    "help_message": "Click on the object, or draw a box around it first.",
    "animated_gif": "",
}
DETECTOR_NOTES = {
    "type": "detector",
    "version": INTERFACE,
    "spec": f'[{{"id": 0, "name": "{LABEL}", "type": "mask"}}]',
}

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
Points = Annotated[list[Pair], Field(max_length=MAX_POINTS)]


class Invocation(BaseModel):
    """A frame, and the clicks and the box on one object; pixels of the frame."""

    image: str = Field(description="The frame's file as base64.")
    pos_points: Points | None = None
    neg_points: Points | None = None
    obj_bbox: Annotated[list[Pair], Field(max_length=2)] | None = Field(
        default=None, description="Two corners, or empty."
    )
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Of the detector: least predicted IoU."
    )


class Attribute(BaseModel):
    """A value beside a shape."""

    spec_id: int = CONFIDENCE
    value: str


class Shape(BaseModel):
    """A mask: the runs of its box's rows, then left, top, right and bottom."""

    type: str = "mask"
    points: list[int]
    attributes: list[Attribute]


class Shapes(BaseModel):
    """Answer of newer versions of CVAT; older ones read `mask`, rows of 0 and 1."""

    shapes: list[Shape]


class Detected(BaseModel):
    """An object of the detector."""

    label: str = LABEL
    type: str = "mask"
    confidence: str
    points: list[int] = Field(description="The outline of its largest part, x and y in turn.")
    mask: list[int] = Field(description="0 and 1 of its box row by row, then the box.")


def routes(service: Service) -> APIRouter:
    """Return the routes of Nuclio's dashboard that CVAT calls."""
    router = APIRouter(
        tags=["CVAT"],
        route_class=surface(write_message, json_parts=service.settings.max_json_parts),
        responses=MESSAGES,
    )
    for prefix in PREFIXES:
        _add(router, service, prefix)
    return router


def _add(router: APIRouter, service: Service, prefix: str) -> None:
    in_schema = prefix == PREFIXES[-1]

    @router.get(f"{prefix}/api/functions", include_in_schema=in_schema)
    async def list_functions() -> Response:
        """List an interactor for each model, and the detector."""
        names = [*await _functions(service), DETECTOR]
        return json_response({name: _describe(name) for name in names})

    @router.get(f"{prefix}/api/functions/{{name}}", include_in_schema=in_schema)
    async def describe_function(name: str) -> Response:
        """Describe one function."""
        if name != DETECTOR:
            await _model(service, name)
        return json_response(_describe(name))

    @router.post(
        f"{prefix}/api/function_invocations",
        include_in_schema=in_schema,
        response_model=Shapes | list[Detected],
    )
    async def invoke(
        asked: Invocation,
        name: Annotated[str, Header(alias="x-nuclio-function-name", max_length=128)] = FUNCTION,
    ) -> Response:
        """Answer clicks and a box on one object with its mask, or detect everything."""
        if name == DETECTOR:
            return await _detect(service, asked)
        prompt = _prompt(asked)
        model = await _model(service, name)
        image = await decode_image(asked.image, "image", service.settings.max_image_bytes)

        client = service.patient().using(model=model)
        answer = await predict_clamped(client, image, [prompt], max_masks=1)
        write = _write_rows if service.settings.cvat_answer == "mask" else _write_shapes
        return await asyncio.to_thread(write, answer.masks[0])


def _prompt(asked: Invocation) -> Prompt:
    """Return the prompt for the object. Raises InvalidInput."""
    corners = asked.obj_bbox or ()
    if len(corners) == 1:
        raise InvalidInput("obj_bbox", "obj_bbox: one corner; expected two, or none")
    prompt = read_prompt(asked.pos_points or (), asked.neg_points or (), corners)
    if prompt is None:
        raise InvalidInput("pos_points", "pos_points: no point and no box; send at least one")
    return prompt


async def _detect(service: Service, asked: Invocation) -> Response:
    """Segment everything in a frame. Raises InvalidInput if the answer would be too large."""
    image = await decode_image(asked.image, "image", service.settings.max_image_bytes)
    client = service.sweeping().using(model=service.model_for(DETECTOR))
    found = await client.generate_masks(image, GridOptions(pred_iou_thresh=asked.threshold))
    masks = [record.mask for record in found.records if record.mask.area]

    pixels = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (mask.bbox for mask in masks))
    if pixels > MAX_DETECTED_PIXELS:
        raise InvalidInput(
            "image",
            f"image: the boxes of its masks have {pixels:,} pixels together; "
            f"the limit is {MAX_DETECTED_PIXELS:,}",
        )
    return await asyncio.to_thread(_write_detected, masks)


async def _functions(service: Service) -> dict[str, str]:
    """Return our model of each function. Without a decoder there is the default one alone."""
    try:
        _, *others = [model.name for model in await service.models()]
    except SamserveError:
        others = []
    return {FUNCTION: "", **{f"{FUNCTION}-{model}": model for model in others}}


async def _model(service: Service, function: str) -> str:
    if function == FUNCTION:
        return service.model_for(function)
    functions = await _functions(service)
    if function not in functions:
        raise ModelNotFound(function, list(functions))
    return functions[function]


def _describe(name: str) -> dict[str, Any]:
    """Describe a function. CVAT reads any text as true, so a false key is left out."""
    annotations = DETECTOR_NOTES if name == DETECTOR else INTERACTOR_NOTES
    return {
        "metadata": {"name": name, "annotations": {"name": name, **annotations}},
        "spec": {"description": "Segment Anything by samserve"},
        "status": {"state": "ready", "httpPort": 0},
    }


def _write_shapes(mask: Mask) -> Response:
    confidence = Attribute(value=write_confidence(mask.predicted_iou))
    shape = Shape(points=encode_runs(mask.runs()), attributes=[confidence])
    return json_response(Shapes(shapes=[shape]).model_dump())


def _write_detected(masks: Sequence[Mask]) -> Response:
    return Response(b"[" + b",".join(map(_detected, masks)) + b"]", media_type="application/json")


def _detected(mask: Mask) -> bytes:
    """Write an object. Its pixels are text from the start: a list takes four times as much."""
    outline = max(external_contours(mask.runs()), key=area)
    detected = Detected(
        confidence=write_confidence(mask.predicted_iou), points=outline.ravel().tolist(), mask=[]
    )
    head = orjson.dumps(detected.model_dump(exclude={"mask"}))
    return head[:-1] + b',"mask":' + write_pixels(mask.runs()) + b"}"


def _write_rows(mask: Mask) -> Response:
    content = b'{"mask":' + write_rows(mask.runs()) + b"}"
    return Response(content, media_type="application/json")
