"""`samserve label-studio check` against a gateway and a Label Studio that may be broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import raw_web
from contract.gateway.conftest import serving
from pydantic import SecretStr
from raw_web import Web, page
from samserve.cli.main import app as command_line
from samserve.gateway.app import build
from samserve.gateway.label_studio import check as steps
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings
from typer.testing import CliRunner

TOKEN = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105  # of this test only
UPLOAD = "/data/upload/1/12345678-coins.png"
CONFIG = (
    '<View><Image name="i" value="$photo"/>'
    '<BrushLabels name="b" toName="i"><Label value="Coin"/></BrushLabels></View>'
)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take any time for an answer."""
    for limit in ("HEALTH_S", "SETUP_S", "PREDICT_S"):
        monkeypatch.setattr(steps, limit, 300.0)


@pytest.fixture
async def studio(picture: bytes) -> AsyncIterator[Web]:
    projects = [{"id": 9, "label_config": "<View/>"}, {"id": 3, "label_config": CONFIG}]
    async with raw_web.running() as web:
        web.pages["/api/projects"] = page(orjson.dumps({"results": projects}))
        web.pages["/api/tasks"] = page(
            orjson.dumps({"tasks": [{"id": 7, "data": {"photo": UPLOAD}}]})
        )
        web.pages[UPLOAD] = page(picture)
        yield web


@pytest.fixture
def settings(studio: Web) -> GatewaySettings:
    return GatewaySettings(label_studio_url=studio.url(""), label_studio_token=SecretStr(TOKEN))


@pytest.fixture
async def backend(service: Service) -> AsyncIterator[str]:
    async with serving(build(service)) as url:
        yield f"{url}/label-studio"


async def check(url: str, *options: str) -> tuple[int, Any]:
    """Run the command; returns its exit code and what it printed as JSON."""
    arguments = ["label-studio", "check", url, "--json", *options]
    result = await asyncio.to_thread(CliRunner().invoke, command_line, arguments)
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])  # after the services' logs


def states(printed: Any) -> dict[str, str]:
    return {step["name"]: step["state"] for step in printed["steps"]}


async def test_every_step_is_reported(backend: str, studio: Web, picture: bytes) -> None:
    code, printed = await check(backend, "--studio", studio.url(""), "--token", TOKEN)
    assert code == 0, printed
    assert printed["ok"] is True
    assert states(printed) == {
        "health": "ok",
        "setup": "ok",
        "address": "note",
        "tasks": "ok",
        "image": "ok",
        "predict": "ok",
    }
    details = {step["name"]: step["detail"] for step in printed["steps"]}
    assert details["tasks"] == "task 7 of project 3, legacy token"
    assert f"{len(picture):,} bytes" in details["image"]
    assert "ML_BLOCK_LOCAL_IP=false" in details["address"]
    assert TOKEN not in json.dumps(printed)


async def test_without_label_studio_the_rest_is_skipped(backend: str) -> None:
    code, printed = await check(backend)
    assert code == 0
    assert states(printed)["tasks"] == "skipped"


async def test_a_refused_token_is_told(backend: str, studio: Web) -> None:
    studio.pages["/api/projects"] = page(status="401 Unauthorized")
    code, printed = await check(backend, "--studio", studio.url(""), "--token", TOKEN)
    assert code == 1
    assert states(printed)["tasks"] == "failed"
    assert "HTTP 401 to the request with legacy token" in printed["steps"][-1]["detail"]


async def test_an_image_that_is_missing_is_told(backend: str, studio: Web) -> None:
    studio.pages[UPLOAD] = page(status="404 Not Found")
    code, printed = await check(backend, "--studio", studio.url(""), "--token", TOKEN)
    assert code == 1
    assert states(printed)["image"] == "failed"
    assert "HTTP 404" in printed["steps"][-1]["detail"]


async def test_a_backend_that_is_down_or_something_else_is_told(studio: Web) -> None:
    code, printed = await check("http://127.0.0.1:1/label-studio")
    assert (code, states(printed)) == (1, {"health": "failed"})

    studio.pages["/health"] = page(b"<html>")
    code, printed = await check(studio.url(""))
    assert (code, states(printed)) == (1, {"health": "failed"})
    assert "is this the gateway?" in printed["steps"][0]["detail"]
