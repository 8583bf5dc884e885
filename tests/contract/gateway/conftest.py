"""The gateway over the real services' servicers: in process, or on a real port."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from contract.conftest import Path
from fastapi import FastAPI
from PIL import Image
from pydantic import SecretStr
from samserve.client import AsyncClient
from samserve.gateway.app import build
from samserve.gateway.http_protocol import BoundedHttp
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings


@pytest.fixture
def settings(edge_secret: str) -> GatewaySettings:
    return GatewaySettings(edge_secret=SecretStr(edge_secret))


@pytest.fixture
def picture() -> bytes:
    """A PNG that no test has sent before."""
    out = io.BytesIO()
    Image.frombytes("L", (320, 200), os.urandom(320 * 200)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
async def service(path: Path, settings: GatewaySettings) -> AsyncIterator[Service]:
    service = Service(settings, AsyncClient(path.decoder, path.embedding))
    yield service
    await service.close()


@pytest.fixture
def gateway_app(service: Service) -> FastAPI:
    return build(service)


@pytest.fixture
async def http(gateway_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Sends requests to the application without a socket."""
    transport = httpx.ASGITransport(gateway_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@asynccontextmanager
async def serving(app: FastAPI, max_connections: int | None = None) -> AsyncIterator[str]:
    """Serve an application as main does; yields its URL."""
    config = uvicorn.Config(
        app,
        port=0,
        http=BoundedHttp,
        ws="none",
        log_config=None,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running
