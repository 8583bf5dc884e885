"""The routes of Roboflow's inference server that concern SAM."""

from __future__ import annotations

import uuid
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from samserve.gateway.message import MESSAGES, write_message
from samserve.gateway.rest.answers import json_response
from samserve.gateway.roboflow import models, requests
from samserve.gateway.roboflow.images import Images
from samserve.gateway.roboflow.segmentation import BYTES, Segmentation
from samserve.gateway.route import surface
from samserve.gateway.service import Service

BEARER = "bearer "

Key = Annotated[str | None, Query(alias="api_key", max_length=512)]
Authorization = Annotated[str | None, Header(max_length=1024)]

# What a call with format "binary" is answered with.
BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
}


def routes(service: Service) -> APIRouter:
    """Return the routes, at the paths of Roboflow's server."""
    segmentation = Segmentation(service, Images(service))
    router = APIRouter(
        tags=["Roboflow"],
        route_class=surface(write_message, json_parts=service.settings.max_json_parts),
        responses=MESSAGES,
    )
    _add_segmentation(router, segmentation)
    _add_server(router, service)
    return router


def _add_segmentation(router: APIRouter, segmentation: Segmentation) -> None:
    @router.post("/sam/embed_image", response_model=models.SamEmbedAnswer, responses=BINARY)
    async def embed_sam(
        call: requests.SamEmbedRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Embed an image and return its embedding."""
        return await segmentation.embed_sam(call, _key(call, key, authorization))

    @router.post("/sam/segment_image", response_model=models.SamSegmentAnswer, responses=BINARY)
    async def segment_sam(
        call: requests.SamSegmentRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Answer points on one object with SAM's four masks."""
        return await segmentation.segment_sam(call, _key(call, key, authorization))

    @router.post("/sam2/embed_image", response_model=models.EmbedAnswer)
    async def embed_sam2(
        call: requests.Sam2EmbedRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Embed an image, so that its first prompt is answered at once."""
        return await segmentation.embed(call, call.sam2_version_id, _key(call, key, authorization))

    @router.post("/sam3/embed_image", response_model=models.EmbedAnswer)
    async def embed_sam3(
        call: requests.Sam3EmbedRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Embed an image, so that its first prompt is answered at once."""
        return await segmentation.embed(call, "", _key(call, key, authorization))

    @router.post("/sam2/segment_image", response_model=models.SegmentAnswer, responses=BINARY)
    async def segment_sam2(
        call: requests.SegmentRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Answer each prompt with one mask."""
        return await segmentation.segment(
            call, call.sam2_version_id, _key(call, key, authorization)
        )

    @router.post("/sam3/visual_segment", response_model=models.SegmentAnswer, responses=BINARY)
    async def segment_sam3(
        call: requests.VisualSegmentRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Answer each prompt with one mask."""
        return await segmentation.segment(call, "", _key(call, key, authorization))

    @router.post("/sam3/concept_segment", response_model=models.ConceptsAnswer)
    async def segment_concepts(
        call: requests.ConceptRequest, key: Key = None, authorization: Authorization = None
    ) -> Response:
        """Find every instance of phrases and of objects like examples."""
        return await segmentation.find(call, _key(call, key, authorization))


def _add_server(router: APIRouter, service: Service) -> None:
    server = models.ServerInfo(name="samserve", version=version("samserve"), uuid=uuid.uuid4().hex)

    @router.get("/info", response_model=models.ServerInfo)
    async def info() -> Response:
        """Describe this gateway."""
        return json_response(server.model_dump())

    @router.get("/model/registry", response_model=models.Registry)
    async def list_models() -> Response:
        """List the models that are served."""
        return json_response(models.registry(await service.models()))

    @router.post("/model/add", response_model=models.Registry)
    @router.post("/model/remove", response_model=models.Registry)
    @router.post("/model/clear", response_model=models.Registry)
    async def change_models() -> Response:
        """List the models that are served; calls do not change them."""
        return json_response(models.registry(await service.models()))


def _key(call: requests.Call, query: str | None, authorization: str | None) -> str:
    """Return the API key that a call bears. It is not checked; it only separates image ids."""
    if call.api_key:
        return call.api_key
    if authorization and authorization.lower().startswith(BEARER):
        return authorization[len(BEARER) :].strip()
    return query or ""
