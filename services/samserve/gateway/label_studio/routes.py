"""The routes of the ML backend. Health and setup touch neither a model nor an image."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request, Response

from samserve.gateway.label_studio import messages
from samserve.gateway.label_studio.body import cut_unused
from samserve.gateway.label_studio.predictor import MODEL_NAME, Predictor
from samserve.gateway.problem import Problem
from samserve.gateway.rest.answers import json_response, problem_response
from samserve.gateway.rest.routes import PROBLEMS
from samserve.gateway.route import surface
from samserve.gateway.service import Service

BATCH_PARTS = 20  # times the values that other surfaces allow: a batch has all selected tasks
COMPRESSED_BYTES = 10_000  # answers from this size on are compressed
GZIP_LEVEL = 1

log = structlog.get_logger()


def routes(service: Service) -> APIRouter:
    """Return the routes under /label-studio."""
    model = service.model_for(MODEL_NAME)
    model_version = f"samserve {version('samserve')}{model and ' '}{model}"
    predictor = Predictor(service, model_version)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await predictor.close()

    router = APIRouter(
        prefix="/label-studio",
        tags=["Label Studio"],
        route_class=surface(
            _write_problem,
            json_parts=BATCH_PARTS * service.settings.max_json_parts,
            prepare=cut_unused,
        ),
        responses=PROBLEMS,
        lifespan=lifespan,
    )

    @router.get("/health")
    async def health() -> messages.HealthAnswer:
        """Tell Label Studio that the backend runs."""
        return messages.HealthAnswer(status="UP", model_class="samserve")

    @router.post("/setup")
    async def setup() -> messages.SetupAnswer:
        """Tell the model's version. The body is ignored, the token in it above all."""
        return messages.SetupAnswer(model_version=model_version)

    @router.get("/versions")
    async def versions() -> messages.VersionsAnswer:
        """List the versions: the current one."""
        return messages.VersionsAnswer(versions=[model_version])

    @router.post("/webhook")
    async def webhook() -> Response:
        """Accept every event. Nothing is trained."""
        return json_response({})

    @router.post("/predict", response_model=messages.PredictAnswer)
    async def predict(asked: messages.PredictRequest, request: Request) -> Response:
        """Answer the regions of one task, or a batch of tasks without regions."""
        results = await predictor.predict(asked)
        accepted = request.headers.get("accept-encoding", "")
        return await asyncio.to_thread(_write_results, results, "gzip" in accepted)

    return router


def _write_results(results: list[dict[str, Any]], compress: bool) -> Response:
    """Write an answer; brush regions shrink to a seventh."""
    body = orjson.dumps({"results": results})
    if not compress or len(body) < COMPRESSED_BYTES:
        return Response(body, media_type="application/json")
    return Response(
        gzip.compress(body, GZIP_LEVEL, mtime=0),
        media_type="application/json",
        headers={"content-encoding": "gzip", "vary": "accept-encoding"},
    )


def _write_problem(problem: Problem) -> Response:
    """Log the reason: Label Studio keeps only the status, and its page shows nothing."""
    log.warning(
        "label_studio_request_failed",
        status=problem.status,
        problem=problem.message,
        field=problem.field,
    )
    return problem_response(problem)
