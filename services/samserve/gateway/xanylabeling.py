"""The protocol of X-AnyLabeling's server, which its window calls when the model is remote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from samserve.client import Box, Click, Mask, Prompt
from samserve.core.arrays import Ints
from samserve.core.errors import InvalidInput, ModelNotFound
from samserve.core.limits import DEFAULT_PROMPTS, check_count
from samserve.gateway.base64_image import decode_image
from samserve.gateway.clamped import predict_clamped
from samserve.gateway.contours import area, external_contours, perimeter, simplify
from samserve.gateway.problem import NotImplementedHere, Problem
from samserve.gateway.rest.answers import json_response
from samserve.gateway.route import surface
from samserve.gateway.service import Service

POLYGONS, BOXES, EVERYTHING = "sam", "sam-box", "sam-everything"
ASK_FOR_LABEL = "AUTOLABEL_OBJECT"  # the window then asks which label the shape gets

MAX_RECTANGLES = DEFAULT_PROMPTS  # of a request, each an object
MAX_MARKS = 256
SMALLEST_PART = 0.2  # of the mean area of a mask's parts; smaller parts are left out
MAX_EPSILON = 1.0

MARKS = [
    "button_add_point",
    "button_remove_point",
    "button_add_rect",
    "button_clear",
    "button_finish_object",
]
FINENESS = ["mask_fineness_slider", "mask_fineness_value_label"]
WIDGETS = {
    POLYGONS: [*MARKS, *FINENESS],
    BOXES: MARKS,
    EVERYTHING: ["button_run", *FINENESS],
}
NAMES = {
    POLYGONS: "Segment Anything",
    BOXES: "Segment Anything (boxes)",
    EVERYTHING: "Segment Anything (everything)",
}


class Mark(BaseModel):
    """A click, or a rectangle around an object; pixels of the image."""

    type: Literal["point", "rectangle"]
    data: list[float] = Field(min_length=2, max_length=4)
    label: int = 1


class Params(BaseModel):
    """The parameters of a prediction."""

    marks: list[Mark] | None = Field(default=None, max_length=MAX_MARKS)
    epsilon_factor: float = Field(
        default=0.001,
        ge=0,
        le=MAX_EPSILON,
        description="Pixels that a polygon may stray, as a share of its perimeter.",
    )


class PredictRequest(BaseModel):
    """A prediction. All marks of the current objects come with each request."""

    model: str = Field(max_length=64)
    image: str = Field(description="Base64, with or without `data:image/...;base64,`.")
    params: Params = Params()


class Shape(BaseModel):
    """An outline; its first point is repeated at the end of a polygon."""

    label: str = ASK_FOR_LABEL
    shape_type: Literal["polygon", "rectangle"]
    points: list[tuple[float, float]]
    score: float


class Shapes(BaseModel):
    """The shapes of a prediction."""

    shapes: list[Shape]
    description: str = ""
    replace: bool = False


class PredictAnswer(BaseModel):
    """Answer of /v1/predict."""

    success: bool = True
    data: Shapes


class Health(BaseModel):
    """Answer of /health."""

    status: str = "healthy"
    models_loaded: int
    timestamp: str


def routes(service: Service) -> APIRouter:
    """Return the routes; the address to configure ends with /xanylabeling."""
    router = APIRouter(
        prefix="/xanylabeling",
        tags=["X-AnyLabeling"],
        route_class=surface(_write_problem, json_parts=service.settings.max_json_parts),
    )

    @router.get("/health", response_model=Health)
    async def health() -> Response:
        """Tell that the gateway runs."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json_response(Health(models_loaded=len(NAMES), timestamp=now).model_dump())

    @router.get("/v1/models")
    async def list_models() -> Response:
        """List the models with the buttons that they need."""
        return json_response({"success": True, "data": {model: _info(model) for model in NAMES}})

    @router.get("/v1/models/{model}/info")
    async def describe_model(model: str) -> Response:
        """Describe one model."""
        return json_response({"success": True, "data": _info(_known(model))})

    @router.post("/v1/predict", response_model=PredictAnswer)
    async def predict(asked: PredictRequest) -> Response:
        """Answer the marks of one or several objects with one mask each."""
        model = _known(asked.model)
        if model == EVERYTHING:
            raise NotImplementedHere(f"{EVERYTHING} is not available yet; choose {POLYGONS}")
        prompts = read_marks(asked.params.marks or [])

        image = await decode_image(asked.image, "image", service.settings.max_image_bytes)
        client = service.patient().using(model=service.model_for(model))
        answer = await predict_clamped(client, image, prompts, max_masks=1)
        masks = [mask for result in answer.results for mask in result]
        return await asyncio.to_thread(_write, masks, model, asked.params.epsilon_factor)

    return router


def read_marks(marks: Sequence[Mark]) -> list[Prompt]:
    """Return one prompt for each rectangle, and one for the points that belong to none.

    With one rectangle all points belong to it; with several, a point belongs to those that it lies
    in.

    Raises:
        InvalidInput: There are no marks on an object, too many, or invalid ones.
    """
    boxes = [_box(mark, index) for index, mark in enumerate(marks) if mark.type == "rectangle"]
    check_count(len(boxes), MAX_RECTANGLES, "params.marks", "rectangles")
    clicks = [
        Click(mark.data[0], mark.data[1], mark.label == 1) for mark in marks if mark.type == "point"
    ]
    if len(boxes) == 1:
        return [Prompt(clicks, boxes[0])]

    prompts = [Prompt([each for each in clicks if _is_in(each, box)], box) for box in boxes]
    apart = [each for each in clicks if not any(_is_in(each, box) for box in boxes)]
    if any(click.on for click in apart):
        prompts.append(Prompt(apart))
    if not prompts:
        raise InvalidInput(
            "params.marks", "params.marks: no point or rectangle on an object; add one first"
        )
    return prompts


def _box(mark: Mark, index: int) -> Box:
    field = f"params.marks[{index}]"
    if mark.label != 1:
        raise InvalidInput(field, f"{field}: a rectangle beside the object is not supported")
    if len(mark.data) != 4:
        raise InvalidInput(field, f"{field}: {len(mark.data)} numbers; expected [x1, y1, x2, y2]")
    x1, y1, x2, y2 = mark.data
    return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def _is_in(click: Click, box: Box) -> bool:
    return box.x0 <= click.x <= box.x1 and box.y0 <= click.y <= box.y1


def _known(model: str) -> str:
    if model not in NAMES:
        raise ModelNotFound(model, list(NAMES))
    return model


def _info(model: str) -> dict[str, Any]:
    return {
        "display_name": NAMES[model],
        "widgets": [{"name": widget, "value": None} for widget in WIDGETS[model]],
        "params": {},
        "capabilities": {},
        "batch_processing_mode": "default" if model == EVERYTHING else None,
    }


def _write(masks: Sequence[Mask], model: str, epsilon_factor: float) -> Response:
    write = _rectangles if model == BOXES else _polygons
    shapes = [shape for mask in masks for shape in write(mask, epsilon_factor)]
    return json_response(PredictAnswer(data=Shapes(shapes=shapes)).model_dump())


def _rectangles(mask: Mask, _: float) -> list[Shape]:
    if not mask.area:
        return []
    x0, y0, x1, y1 = mask.bbox
    corners: list[tuple[float, float]] = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return [Shape(shape_type="rectangle", points=corners, score=mask.predicted_iou)]


def _polygons(mask: Mask, epsilon_factor: float) -> list[Shape]:
    simple = [
        simplify(contour, epsilon_factor * perimeter(contour))
        for contour in _large(external_contours(mask.runs()))
    ]
    return [
        Shape(
            shape_type="polygon",
            points=[*contour.tolist(), contour[0].tolist()],
            score=mask.predicted_iou,
        )
        for contour in simple
        if len(contour) > 2
    ]


def _large(contours: list[Ints]) -> list[Ints]:
    """Return the contours that enclose at least a share of the mean area."""
    areas = [area(contour) for contour in contours]
    least = SMALLEST_PART * sum(areas) / max(len(areas), 1)
    return [contour for contour, each in zip(contours, areas, strict=True) if each >= least]


def _write_problem(problem: Problem) -> Response:
    """Answer a failure. The window shows the text of a 4xx or 5xx, and nothing of a 200."""
    error = {"code": problem.code, "message": problem.message}
    content = {"success": False, "error": error, "detail": problem.message}
    return json_response(content, problem.status)
