"""The routes from which a browser gets a model's decoder, to decode by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse

from samserve.client.decoder_files import DecoderDescription
from samserve.core.errors import ModelVersionMismatch, SamserveError, Unavailable, shorten
from samserve.core.limits import LONGEST_STRING
from samserve.gateway.problem import NotImplementedHere
from samserve.gateway.rest import models
from samserve.gateway.rest.answers import json_response, problem_response
from samserve.gateway.route import surface
from samserve.gateway.service import Service

FOREVER = "private, max-age=31536000, immutable"
ASK_EACH_TIME = "no-cache"

Name = Annotated[str, Path(max_length=LONGEST_STRING, description="Name of a model.")]
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of the weights.")]
WEIGHTS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }
}


class DecoderChanged(ModelVersionMismatch):
    """The weights that a caller asks for are not those that are served."""

    def __init__(self, model: str) -> None:
        SamserveError.__init__(
            self, f"the decoder of the model {shorten(model)!r} has changed; ask for it again"
        )


def routes(service: Service) -> APIRouter:
    """Return the routes under /v1/models/{name}."""
    router = APIRouter(
        route_class=surface(problem_response, json_parts=service.settings.max_json_parts)
    )

    @router.get("/models/{name}/decoder", response_model=models.DecoderAnswer)
    async def describe_decoder(name: Name) -> Response:
        """Tell how a model's decoder is computed, and which weights it has."""
        description = await service.client.using(model=name).decoder_description()
        answer = json_response(asdict(description))
        answer.headers["cache-control"] = ASK_EACH_TIME
        return answer

    @router.get(
        "/models/{name}/decoder/{digest}", response_class=StreamingResponse, responses=WEIGHTS
    )
    async def get_decoder(request: Request, name: Name, digest: Digest) -> Response:
        """Return a decoder's weights, a safetensors file. 409: they are not served any more."""
        headers = {"etag": f'"{digest}"', "cache-control": FOREVER}
        if headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)

        messages = service.client.using(model=name).decoder_weights()
        try:
            description = await anext(messages, None)
            if not isinstance(description, DecoderDescription):
                raise Unavailable("the decoder did not describe itself; retry")
            if not description.digest:
                raise NotImplementedHere(description.note)
            if description.digest != digest:
                raise DecoderChanged(name)
        except SamserveError:
            await messages.aclose()
            raise
        headers["content-length"] = str(description.bytes)
        return StreamingResponse(
            _bytes(messages), media_type="application/octet-stream", headers=headers
        )

    return router


async def _bytes(
    messages: AsyncGenerator[DecoderDescription | bytes, None],
) -> AsyncIterator[bytes]:
    async with aclosing(messages):
        async for message in messages:
            if isinstance(message, bytes):
                yield message
