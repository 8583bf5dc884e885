"""The routes of the REST interface."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile

from samserve.client import CachedImage
from samserve.client.image import ImageInput
from samserve.core.errors import EmbeddingNotCached
from samserve.gateway.json_body import parse_json
from samserve.gateway.problem import UnsupportedBody
from samserve.gateway.rest import concepts, decoder_files, everything, models
from samserve.gateway.rest.answers import json_response, problem_response
from samserve.gateway.rest.embedding import accepts_gzip, embedding_response
from samserve.gateway.rest.masks import image_json, masks_json, wire_formats
from samserve.gateway.route import surface
from samserve.gateway.service import Service

BIG_ANSWER = 8  # masks; more are written in a thread

ImageId = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the image.")]
TenantName = Annotated[str, Path(max_length=64, description="The caller's own tenant.")]
Model = Annotated[str, Query(max_length=64, description="Empty: the default model.")]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": models.ProblemModel, "content": {"application/problem+json": {}}}
    for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504)
}
ANY_BYTES = {"schema": {"type": "string", "format": "binary"}}
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": ANY_BYTES,
            "image/*": ANY_BYTES,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {"schema": models.NamedImage.model_json_schema()},
        },
    }
}


def routes(service: Service) -> APIRouter:
    """Return the routes under /v1."""
    router = APIRouter(
        prefix="/v1",
        tags=["REST"],
        route_class=surface(problem_response, json_parts=service.settings.max_json_parts),
        responses=PROBLEMS,
    )

    @router.get("/models", response_model=models.ModelsAnswer)
    async def list_models() -> Response:
        """List the models that can be named in a request."""
        served = await service.models()
        return json_response(
            {
                "models": [
                    {
                        "name": each.name,
                        "version": each.version,
                        "default": each is served[0],
                        "side": each.side,
                        "low_res": each.low_res,
                        "decoder_bytes": each.decoder_bytes,
                        "decoder_note": each.decoder_note,
                    }
                    for each in served
                ]
            }
        )

    @router.post("/images", response_model=models.ImageAnswer, openapi_extra=IMAGE_BODY)
    async def add_image(request: Request, model: Model = "") -> Response:
        """Embed an image: its bytes, a form with a `file`, or JSON with its `image_id`.

        By id it answers 404, code EMBEDDING_NOT_CACHED, if the image must be sent.
        """
        image = await _image_of(request, service.settings.max_json_parts)
        return json_response(image_json(await service.client.using(model=model).embed(image)))

    @router.post("/images/{image_id}/masks", response_model=models.MasksAnswer)
    async def predict_masks(image_id: ImageId, asked: models.MasksRequest) -> Response:
        """Answer prompts on an image. 404, code EMBEDDING_NOT_CACHED: add the image first."""
        answer = await service.client.using(model=asked.model).predict(
            CachedImage(image_id),
            [prompt.prompt() for prompt in asked.prompts],
            low_res_logits=asked.low_res_logits,
            formats=wire_formats(asked.formats),
            polygon_tolerance=asked.polygon_tolerance,
            max_masks=asked.max_masks,
        )
        if sum(map(len, answer.results)) > BIG_ANSWER:
            return await asyncio.to_thread(lambda: json_response(masks_json(answer, asked.formats)))
        return json_response(masks_json(answer, asked.formats))

    @router.post(
        "/images/{image_id}/everything",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def segment_everything(
        image_id: ImageId, asked: everything.EverythingRequest
    ) -> StreamingResponse:
        """Segment everything in an image: events `progress`, then one `masks` or `problem`.

        404, code EMBEDDING_NOT_CACHED: add the image first. With crops, whose embeddings need the
        image's bytes, it is answered so as well unless the crops are known.
        """
        client = service.sweeping().using(model=asked.model)
        return await everything.stream(client, CachedImage(image_id), asked)

    @router.post(
        "/images/{image_id}/proposals",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def propose(image_id: ImageId, asked: everything.ProposalsRequest) -> StreamingResponse:
        """Propose what is left beside accepted regions: events as of `everything`.

        A mask has three more fields. `sure`: it may be accepted unseen. `disagreement`: how much
        the candidates at its point differ. `ask`: where a click helps most, if it is not sure.
        """
        client = service.sweeping().using(model=asked.model)
        return await everything.stream(client, CachedImage(image_id), asked)

    @router.post("/images/{image_id}/concepts", response_model=concepts.ConceptsAnswer)
    async def find_concepts(image_id: ImageId, asked: concepts.ConceptsRequest) -> Response:
        """Find every instance of phrases and of objects like examples.

        404, code EMBEDDING_NOT_CACHED: add the image first. 409, code NO_CONCEPTS: the model
        answers points, boxes and masks only. An invalid concept has its own
        `problem`; the others are answered.
        """
        client = service.client.using(model=asked.model)
        return await concepts.find_concepts(client, CachedImage(image_id), asked)

    @router.get(
        "/images/{image_id}/embedding",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/octet-stream": ANY_BYTES}}},
    )
    async def get_embedding(request: Request, image_id: ImageId, model: Model = "") -> Response:
        """Return the embedding: its tensors in fp16, little-endian, one after the other.

        The header `samserve-embedding` is JSON: the image's size, the model's version, and each
        tensor's name and shape. A caller that accepts gzip gets three fifths of the bytes.
        """
        embedding = await service.client.using(model=model).embedding(CachedImage(image_id))
        return await embedding_response(embedding, packed=accepts_gzip(request))

    @router.delete("/images/{image_id}", status_code=HTTPStatus.NO_CONTENT)
    async def delete_image(image_id: ImageId) -> None:
        """Delete every trace of an image, of all models; 404 if nothing was cached."""
        if not await service.client.delete_image(CachedImage(image_id)):
            raise EmbeddingNotCached(image_id)

    @router.delete("/tenants/{tenant}", response_model=models.DeletedAnswer)
    async def delete_tenant(tenant: TenantName) -> Response:
        """Delete every trace of the caller's own tenant; name it, to confirm."""
        return json_response({"deleted": await service.client.delete_tenant(tenant)})

    router.include_router(decoder_files.routes(service))
    return router


async def _image_of(request: Request, json_parts: int) -> ImageInput:
    """Return the image that a body brings or names."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        asked = models.NamedImage.model_validate(parse_json(await request.body(), json_parts))
        return CachedImage(asked.image_id)
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=8) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise UnsupportedBody("file", "file: the form has no such file")
            return await file.read()

    body = await request.body()
    if not body:
        raise UnsupportedBody("body", "body: send the image's bytes, a form, or JSON")
    return body
