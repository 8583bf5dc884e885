"""Makes the requests that Label Studio makes, and the gateway's own to Label Studio."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from samserve.core.errors import InvalidInput
from samserve.gateway.label_studio.config import parse_label_config
from samserve.gateway.label_studio.studio import ImageSource, LabelStudio
from samserve.infra.settings import GatewaySettings

OK, FAILED, SKIPPED, NOTE = "ok", "failed", "skipped", "note"

# Label Studio's own time limits, in seconds.
HEALTH_S, SETUP_S, PREDICT_S = 1.0, 3.0, 100.0


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the check.

    Attributes:
        name: Of the request.
        state: One of OK, FAILED, SKIPPED, NOTE.
        detail: What came back, or what to do.
        milliseconds: It took.
    """

    name: str
    state: str
    detail: str
    milliseconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Sample:
    """A task with an image."""

    project: dict[str, Any]
    source: ImageSource
    key: str


async def steps(url: str, studio: str, token: str) -> AsyncIterator[Step]:
    """Check a backend.

    Args:
        url: Of the backend, without a slash at the end.
        studio: URL of Label Studio, as the gateway has it; may be empty.
        token: Likewise.
    """
    health = await _call("health", "GET", f"{url}/health", HEALTH_S)
    yield health
    if health.state == FAILED:
        return
    yield await _call("setup", "POST", f"{url}/setup", SETUP_S, {"project": "0.0", "schema": ""})
    if await asyncio.to_thread(_is_private, url):
        yield Step(
            "address",
            NOTE,
            "private: Label Studio refuses it without ML_BLOCK_LOCAL_IP=false and "
            "SSRF_PROTECTION_ENABLED=false",
        )

    if not studio:
        yield Step(
            "tasks", SKIPPED, "set SAMSERVE_LABEL_STUDIO_URL and SAMSERVE_LABEL_STUDIO_TOKEN"
        )
        return
    settings = GatewaySettings(label_studio_url=studio, label_studio_token=token)  # type: ignore[arg-type]
    client = LabelStudio(settings)
    try:
        async for step in _studio_steps(url, client):
            yield step
    finally:
        await client.close()


async def _studio_steps(url: str, client: LabelStudio) -> AsyncIterator[Step]:
    started = time.perf_counter()
    try:
        sample = await _sample(client)
    except InvalidInput as problem:
        yield Step("tasks", FAILED, str(problem), _since(started))
        return
    if sample is None:
        yield Step(
            "tasks", SKIPPED, f"no task with an image is visible (with {client.credentials})"
        )
        return
    detail = f"task {sample.source.task} of project {sample.project['id']}, {client.credentials}"
    yield Step("tasks", OK, detail, _since(started))

    started = time.perf_counter()
    try:
        data = await client.image(sample.source)
    except InvalidInput as problem:
        yield Step("image", FAILED, str(problem), _since(started))
        return
    yield Step("image", OK, f"{sample.source.url}: {len(data):,} bytes", _since(started))
    yield await _call("predict", "POST", f"{url}/predict", PREDICT_S, _prediction(sample))


async def _sample(client: LabelStudio) -> _Sample | None:
    """Find a task whose project has a configuration that the gateway can answer."""
    for project in (await client.api("/api/projects?page_size=20&ordering=-id"))["results"]:
        try:
            key = parse_label_config(project["label_config"]).image_key
        except InvalidInput:
            continue
        if found := await client.next_images(project["id"], 0, 1, key):
            return _Sample(project, found[0], key)
    return None


def _prediction(sample: _Sample) -> dict[str, Any]:
    """Return the request for a click in the middle of the image."""
    click = {
        "type": "keypointlabels",
        "is_positive": True,
        "value": {"x": 50, "y": 50, "width": 0.3, "keypointlabels": []},
    }
    return {
        "tasks": [{"id": sample.source.task, "data": {sample.key: sample.source.url}}],
        "project": f"{sample.project['id']}.0",
        "label_config": sample.project["label_config"],
        "params": {"login": None, "password": None, "context": {"result": [click]}},
    }


async def _call(
    name: str, method: str, url: str, seconds: float, body: dict[str, Any] | None = None
) -> Step:
    """Make one of Label Studio's requests, within its time limit."""
    started = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(seconds)) as session,
            session.request(method, url, json=body) as answer,
        ):
            content = await answer.json()
    except (aiohttp.ContentTypeError, ValueError):
        return Step(name, FAILED, f"no JSON from {url}; is this the gateway?", _since(started))
    except (aiohttp.ClientError, TimeoutError) as problem:
        detail = f"{type(problem).__name__} within Label Studio's limit of {seconds:g} s: {url}"
        return Step(name, FAILED, detail, _since(started))

    if not answer.ok:
        detail = f"HTTP {answer.status}: {content.get('detail', '')}"
        return Step(name, FAILED, detail, _since(started))
    return Step(name, OK, _describe(content), _since(started))


def _describe(content: Any) -> str:
    """Write an answer in one line."""
    if "results" not in content:
        return ", ".join(str(value) for value in content.values())
    (result,) = content["results"]
    kinds = sorted({region["type"] for region in result["result"]})
    return f"regions: {len(result['result'])} {', '.join(kinds)}; score {result['score']}"


def _is_private(url: str) -> bool:
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port)
    except OSError:
        return False
    return any(not ipaddress.ip_address(str(at[0]).partition("%")[0]).is_global for *_, at in found)


def _since(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 1)
