"""The routes of X-AnyLabeling's server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter, Response

from samserve.client import GridOptions, Mask
from samserve.core.errors import ModelNotFound
from samserve.gateway.base64_image import decode_image
from samserve.gateway.clamped import predict_clamped
from samserve.gateway.message import STATUSES
from samserve.gateway.problem import Problem
from samserve.gateway.rest.answers import json_response
from samserve.gateway.route import surface
from samserve.gateway.service import Service
from samserve.gateway.xanylabeling.marks import read_marks
from samserve.gateway.xanylabeling.messages import (
    Error,
    Failure,
    Health,
    ModelAnswer,
    ModelInfo,
    ModelsAnswer,
    PredictAnswer,
    PredictRequest,
    Shapes,
    Widget,
)
from samserve.gateway.xanylabeling.shapes import polygons, rectangle

POLYGONS, BOXES, EVERYTHING = "sam", "sam-box", "sam-everything"

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


def routes(service: Service) -> APIRouter:
    """Return the routes; the address to configure ends with /xanylabeling."""
    router = APIRouter(
        prefix="/xanylabeling",
        tags=["X-AnyLabeling"],
        route_class=surface(_write_problem, json_parts=service.settings.max_json_parts),
        responses={status: {"model": Failure} for status in STATUSES},
    )

    @router.get("/health", response_model=Health)
    async def health() -> Response:
        """Tell that the gateway runs."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json_response(Health(models_loaded=len(NAMES), timestamp=now).model_dump())

    @router.get("/v1/models", response_model=ModelsAnswer)
    async def list_models() -> Response:
        """List the models with the buttons that they need."""
        described = ModelsAnswer(data={model: _info(model) for model in NAMES})
        return json_response(described.model_dump())

    @router.get("/v1/models/{model}/info", response_model=ModelAnswer)
    async def describe_model(model: str) -> Response:
        """Describe one model."""
        return json_response(ModelAnswer(data=_info(_known(model))).model_dump())

    @router.post("/v1/predict", response_model=PredictAnswer)
    async def predict(asked: PredictRequest) -> Response:
        """Answer the marks of one or several objects with one mask each."""
        model = _known(asked.model)
        image = await decode_image(asked.image, "image", service.settings.max_image_bytes)
        if model == EVERYTHING:
            sweeping = service.sweeping().using(model=service.model_for(model))
            options = GridOptions(pred_iou_thresh=asked.params.conf_threshold or None)
            found = (await sweeping.generate_masks(image, options)).records
            masks = [record.mask for record in found]
            return await asyncio.to_thread(_write, masks, model, asked.params.epsilon_factor)

        prompts = read_marks(asked.params.marks or [])
        client = service.patient().using(model=service.model_for(model))
        answer = await predict_clamped(client, image, prompts, max_masks=1)
        masks = [mask for result in answer.results for mask in result]
        return await asyncio.to_thread(_write, masks, model, asked.params.epsilon_factor)

    return router


def _known(model: str) -> str:
    if model not in NAMES:
        raise ModelNotFound(model, list(NAMES))
    return model


def _info(model: str) -> ModelInfo:
    return ModelInfo(
        display_name=NAMES[model],
        widgets=[Widget(name=widget) for widget in WIDGETS[model]],
        batch_processing_mode="default" if model == EVERYTHING else None,
    )


def _write(masks: Sequence[Mask], model: str, epsilon_factor: float) -> Response:
    shapes = [
        shape
        for mask in masks
        for shape in (rectangle(mask) if model == BOXES else polygons(mask, epsilon_factor))
    ]
    return json_response(PredictAnswer(data=Shapes(shapes=shapes)).model_dump())


def _write_problem(problem: Problem) -> Response:
    error = Error(code=problem.code, message=problem.message)
    response = json_response(
        Failure(error=error, detail=problem.message).model_dump(), problem.status
    )
    response.headers.update(problem.headers)
    return response
