"""The gateway as an ASGI application: every surface, the page, health, a scope for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from samserve.core.errors import SamserveError
from samserve.gateway import cvat, page
from samserve.gateway.label_studio import routes as label_studio
from samserve.gateway.middleware import Observed
from samserve.gateway.problem import problem_of
from samserve.gateway.rest import routes as rest
from samserve.gateway.rest.answers import json_response, problem_response
from samserve.gateway.roboflow import routes as roboflow
from samserve.gateway.service import Service
from samserve.gateway.xanylabeling import routes as xanylabeling

DESCRIPTION = """\
Masks of objects in images. An image is embedded once and named by its SHA-256 from then on.
Coordinates are pixels of the oriented image (EXIF orientation applied).
"""


def build(service: Service) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="samserve",
        version=version("samserve"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    settings = service.settings
    app.add_middleware(
        Observed,
        bodies=service.bodies,
        callers=service.callers,
        most=settings.max_requests,
        slow=settings.slow_s,
    )
    app.add_exception_handler(HTTPException, _answer_unrouted)

    for surface in (rest, roboflow, label_studio, cvat, xanylabeling, page):
        app.include_router(surface.routes(service))

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """Tell that the gateway itself runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """Tell whether a decoder answers, so that requests can be served."""
        try:
            await service.models()
        except SamserveError as error:
            return problem_response(problem_of(error))
        return json_response({"status": "ready"})

    return app


async def _answer_unrouted(_: Request, error: Exception) -> Response:
    """Answer a request for a route or a method that does not exist."""
    return problem_response(problem_of(error))
