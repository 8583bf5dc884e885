"""Label Studio's requests, recorded from a real one, and the ways its images can fail."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path as File
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import raw_web
from contract.conftest import SIZE, Path
from pydantic import SecretStr
from raw_web import Web, page
from samserve.client import Answer, AsyncClient, CachedImage, Click, Prompt
from samserve.client.everything import Everything, Record
from samserve.core.errors import EmbeddingNotCached
from samserve.core.image_id import image_id
from samserve.gateway.app import build
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings
from structlog.testing import capture_logs
from unit.gateway.label_studio.test_brush import pixels

PAYLOADS = File(__file__).parent / "payloads" / "label_studio"
LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "head.body.signature"
UPLOAD = "/data/upload/1/12345678-coins.png"


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_bytes())


def click(**fields: Any) -> dict[str, Any]:
    """The recorded request for a click; `url` replaces its image's, `config` its output."""
    request = payload("predict_keypoint")
    request["tasks"][0]["data"]["image"] = fields.get("url", UPLOAD)
    return request


def tasks(data: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": [{"id": 1, "data": data}]}


def with_output(request: dict[str, Any], tag: str) -> dict[str, Any]:
    changed = copy.deepcopy(request)
    changed["label_config"] = request["label_config"].replace("BrushLabels", tag)
    return changed


@pytest.fixture
async def studio(picture: bytes) -> AsyncIterator[Web]:
    """A Label Studio with one image, which asks for the legacy token."""
    async with raw_web.running() as web:
        web.pages[UPLOAD] = page(picture)
        web.pages["/api/tasks"] = page(b'{"tasks": []}')
        yield web


@pytest.fixture
def token() -> str:
    return LEGACY


@pytest.fixture
def settings(studio: Web, token: str) -> GatewaySettings:
    return GatewaySettings(label_studio_url=studio.url(""), label_studio_token=SecretStr(token))


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """As of the gateway's other tests, with the application's start and end."""
    app = build(service)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
    ):
        yield client


async def predict(http: httpx.AsyncClient, request: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await http.post("/label-studio/predict", json=request)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    assert len(results) == len(request["tasks"])
    return results


async def generate_masks(
    self: AsyncClient, image: CachedImage, options: object, *, formats: Any, **_: Any
) -> Everything:
    """Find what a click finds."""
    answer = await self.predict(image, [Prompt([Click(9, 9)])], formats=formats)
    records = [Record(mask, (9, 9), (0, 0, 1, 1)) for mask in answer.masks]
    return Everything(
        answer.image_id,
        answer.model_version,
        answer.size,
        answer.cache,
        answer.timings_ms,
        records,
        len(records),
    )


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110  # servers have no events for it
        await asyncio.sleep(0.01)


async def test_health_setup_versions_and_webhook_need_no_service_and_no_image() -> None:
    nowhere = AsyncClient("127.0.0.1:1", "127.0.0.1:1")
    service = Service(GatewaySettings(), nowhere)
    transport = httpx.ASGITransport(build(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        health = await http.get("/label-studio/health")
        setup = await http.post("/label-studio/setup", json=payload("setup"))
        versions = await http.get("/label-studio/versions")
        webhook = await http.post("/label-studio/webhook", json=payload("webhook"))
    await service.close()
    assert health.json() == {"status": "UP", "model_class": "samserve"}
    assert versions.json() == {"versions": [setup.json()["model_version"]]}
    assert [each.status_code for each in (health, setup, versions, webhook)] == [200] * 4


async def test_a_recorded_click_is_answered_with_the_mask(
    http: httpx.AsyncClient, service: Service, picture: bytes
) -> None:
    request = click()
    (result,) = await predict(http, request)
    (region,) = result["result"]
    assert region["type"] == "brushlabels"
    assert (region["original_width"], region["original_height"]) == (SIZE.width, SIZE.height)
    assert region["value"]["brushlabels"] == ["Coin"]
    assert result["score"] == region["score"]

    place = request["params"]["context"]["result"][0]["value"]
    prompt = Prompt([Click(place["x"] * SIZE.width / 100, place["y"] * SIZE.height / 100)])
    answer = await service.client.predict(CachedImage(image_id(picture)), [prompt])
    mask = answer.masks[0].array()
    assert np.array_equal(pixels(region["value"]["rle"], mask.shape), mask)


@pytest.mark.parametrize("name", ["predict_negative", "predict_rectangle"])
async def test_a_recorded_prediction_is_answered(
    http: httpx.AsyncClient, studio: Web, picture: bytes, name: str
) -> None:
    request = payload(name)
    for task in request["tasks"]:
        studio.pages[task["data"]["image"]] = page(picture)
    setup = await http.post("/label-studio/setup", json=payload("setup"))
    for result in await predict(http, request):
        assert result["result"]
        assert result["model_version"] == setup.json()["model_version"]


@pytest.mark.parametrize(
    ("tag", "key"),
    [("BitmaskLabels", "imageDataURL"), ("PolygonLabels", "points"), ("RectangleLabels", "width")],
)
async def test_each_control_gets_its_own_form(http: httpx.AsyncClient, tag: str, key: str) -> None:
    (result,) = await predict(http, with_output(click(), tag))
    assert result["result"]
    for region in result["result"]:
        assert region["type"] == tag.lower()
        assert key in region["value"]


async def test_a_task_without_a_context_gets_everything(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AsyncClient, "generate_masks", generate_masks)
    request = click()
    request["params"]["context"] = None
    (result,) = await predict(http, request)
    assert result["result"]
    assert {region["value"]["brushlabels"][0] for region in result["result"]} == {"Coin"}


async def test_several_tasks_get_one_result_so_that_each_is_asked_for_alone(
    http: httpx.AsyncClient, studio: Web
) -> None:
    request = click()
    request["params"]["context"] = None
    request["tasks"] += [{"id": 4, "data": {"image": UPLOAD}}]
    answer = await http.post("/label-studio/predict", json=request)
    (result,) = answer.json()["results"]
    assert result["result"] == []
    await until(lambda: studio.of(UPLOAD))  # embedded ahead


async def test_a_second_click_does_not_download_the_image_again(
    http: httpx.AsyncClient, studio: Web
) -> None:
    first = await predict(http, click())
    second = await predict(http, click())
    assert first[0]["result"][0]["value"] == second[0]["result"][0]["value"]
    assert len(studio.of(UPLOAD)) == 1


async def test_clicks_at_once_share_one_download(http: httpx.AsyncClient, studio: Web) -> None:
    await asyncio.gather(*[predict(http, click()) for _ in range(5)])
    assert len(studio.of(UPLOAD)) == 1


async def test_an_image_that_left_the_cache_is_fetched_again(
    http: httpx.AsyncClient, studio: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    await predict(http, click())
    answer, calls = AsyncClient.predict, 0

    async def gone_at_first(self: AsyncClient, image: Any, *rest: Any, **options: Any) -> Answer:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise EmbeddingNotCached(image.image_id)
        return await answer(self, image, *rest, **options)

    monkeypatch.setattr(AsyncClient, "predict", gone_at_first)
    await predict(http, click())
    assert (calls, len(studio.of(UPLOAD))) == (2, 2)


async def test_the_next_tasks_images_are_fetched_ahead_once_for_each_task(
    http: httpx.AsyncClient, studio: Web, picture: bytes
) -> None:
    following = {"tasks": [{"id": 8, "data": {"image": "/data/upload/1/next.png"}}]}
    studio.pages["/api/tasks"] = page(orjson.dumps(following))
    studio.pages["/data/upload/1/next.png"] = page(picture)
    await predict(http, click())
    await until(lambda: studio.of("/data/upload/1/next.png"))
    await predict(http, click())
    (asked,) = studio.of("/api/tasks")
    assert f"Authorization: Token {LEGACY}" in asked


async def test_a_batch_without_regions_is_embedded_ahead(
    http: httpx.AsyncClient, studio: Web
) -> None:
    request = click()
    request["params"]["context"] = None
    (result,) = await predict(http, request)
    assert result["result"] == []
    await until(lambda: studio.of(UPLOAD))


async def test_the_token_is_sent_to_label_studio_and_to_no_other_host(
    http: httpx.AsyncClient, studio: Web, picture: bytes, service: Service
) -> None:
    await predict(http, click())
    assert f"Authorization: Token {LEGACY}" in studio.of(UPLOAD)[0]

    answer = await http.post(
        "/label-studio/predict", json=click(url="http://other.example/coins.png")
    )
    assert answer.status_code == 400
    assert answer.json()["field"] == "tasks[0].data.image"
    assert "list of allowed hosts" in answer.json()["detail"]


class TestPersonalToken:
    """A token that is exchanged for short-lived ones."""

    @pytest.fixture
    def token(self) -> str:
        return PERSONAL

    async def test_it_is_exchanged_once_and_again_when_refused(
        self, http: httpx.AsyncClient, studio: Web, picture: bytes
    ) -> None:
        studio.pages["/api/token/refresh/"] = page(b'{"access": "first"}')
        await predict(http, click())
        (exchange,) = studio.of("/api/token/refresh/")
        assert "Authorization" not in exchange
        assert "Authorization: Bearer first" in studio.of(UPLOAD)[0]

        other = "/data/upload/1/other.png"
        studio.pages["/api/token/refresh/"] = page(b'{"access": "second"}')

        async def only_second(writer: asyncio.StreamWriter) -> None:
            is_second = "Bearer second" in studio.requests[-1]
            writer.write(page(picture) if is_second else page(status="401 Unauthorized"))
            await writer.drain()

        studio.pages[other] = only_second
        await predict(http, click(url=other))
        assert len(studio.of(other)) == 2

    async def test_one_that_is_refused_is_named(self, http: httpx.AsyncClient, studio: Web) -> None:
        studio.pages["/api/token/refresh/"] = page(status="401 Unauthorized")
        answer = await http.post("/label-studio/predict", json=click())
        assert answer.status_code == 400
        assert answer.json()["field"] == "SAMSERVE_LABEL_STUDIO_TOKEN"
        assert PERSONAL not in answer.text


async def test_an_image_in_a_storage_is_asked_of_label_studio(
    http: httpx.AsyncClient, studio: Web, picture: bytes
) -> None:
    request = click(url="s3://bucket/coins.png")
    task = request["tasks"][0]["id"]
    place = f"/tasks/{task}/presign/"
    studio.pages[place] = page(picture)
    await predict(http, request)
    (head,) = studio.of(place)
    uri = head.split()[1].partition("fileuri=")[2]
    assert base64.urlsafe_b64decode(uri) == b"s3://bucket/coins.png"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tasks": []}, "tasks"),
        ({"label_config": "<View/>"}, "label_config"),
        ({"label_config": None}, "label_config"),
        ({"tasks": [{"id": 1, "data": {}}]}, "tasks[0].data.image"),
        ({"tasks": [{"id": 1, "data": {"image": 5}}]}, "tasks[0].data.image"),
        ({"tasks": [{"id": 1, "data": {"image": "file:///etc/passwd"}}]}, "tasks[0].data.image"),
        ({"tasks": [{"id": 1, "data": {"image": "http://[::1]/x"}}]}, "tasks[0].data.image"),
        (
            {"tasks": [{"id": 1, "data": {"image": "http://169.254.169.254/"}}]},
            "tasks[0].data.image",
        ),
        ({"tasks": 5}, "tasks"),
        ({"params": {"context": {"result": [{"type": "x"}]}}}, "params.context.result[0].value"),
    ],
)
async def test_an_invalid_request_is_refused_and_logged_with_the_fields_name(
    http: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    with capture_logs() as logs:
        answer = await http.post("/label-studio/predict", json={**click(), **change})
    assert answer.status_code in (400, 422)
    assert answer.json()["field"] == field
    (event,) = [each for each in logs if each["event"] == "label_studio_request_failed"]
    assert (event["field"], event["status"]) == (field, answer.status_code)


async def test_a_host_that_refuses_the_image_is_an_error_with_its_status(
    http: httpx.AsyncClient, studio: Web
) -> None:
    studio.pages[UPLOAD] = page(status="401 Unauthorized")
    answer = await http.post("/label-studio/predict", json=click())
    assert answer.status_code == 400
    assert "HTTP 401" in answer.json()["detail"]


async def test_without_label_studios_url_the_error_names_the_setting(path: Path) -> None:
    service = Service(GatewaySettings(), AsyncClient(path.decoder, path.embedding))
    transport = httpx.ASGITransport(build(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answer = await http.post("/label-studio/predict", json=click())
    await service.close()
    assert answer.status_code == 400
    assert "SAMSERVE_LABEL_STUDIO_URL" in answer.json()["detail"]


async def test_megabytes_of_stored_masks_change_nothing(http: httpx.AsyncClient) -> None:
    request = click()
    before = await predict(http, request)
    region = {"value": {"format": "rle", "rle": [255] * 15_000}, "type": "brushlabels"}
    request["tasks"][0]["annotations"] = [{"result": [region] * 100}]
    request["tasks"][0]["drafts"] = [{"result": [region] * 10}]
    after = await predict(http, request)
    assert before[0]["result"][0]["value"] == after[0]["result"][0]["value"]
