"""The REST interface's route for concepts, over a fake client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from contract.gateway.fake_client import app_of, fake_service
from contract.gateway.payloads import picture
from fastapi import FastAPI
from samserve.core.image_id import image_id
from samserve.gateway.rest import routes as rest
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings


@pytest.fixture(scope="module")
def service() -> Service:
    return fake_service(GatewaySettings())


@pytest.fixture(scope="module")
def gateway_app(service: Service) -> FastAPI:
    return app_of(rest.routes, service)


async def ask(http: httpx.AsyncClient, **asked: Any) -> httpx.Response:
    await http.post("/v1/images", content=picture())
    return await http.post(f"/v1/images/{image_id(picture())}/concepts", json=asked)


async def test_each_concept_has_a_result_and_a_bad_one_its_problem(http: httpx.AsyncClient) -> None:
    example = {"box": [1, 2, 9, 9], "negative": True}
    asked = [{"text": "coin", "examples": [example], "threshold": 0.4}, {"text": "bad"}]
    answer = await ask(http, concepts=asked, formats=["rle", "polygons"])
    assert answer.status_code == 200, answer.text
    good, bad = answer.json()["results"]
    (found,) = good["instances"]
    assert (found["score"], found["box"], good["presence"]) == (0.75, [1, 2, 3, 4], 0.9)
    assert found["mask"]["rle"]["counts"]
    assert (bad["problem"]["code"], bad["problem"]["field"]) == (
        "INVALID_INPUT",
        "concepts[1].text",
    )


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"concepts": []}, 422),
        ({"concepts": [{"text": " "}]}, 422),
        ({"concepts": [{"text": "x"}] * 17}, 422),
        ({"concepts": [{"text": "x"}], "threshold": 2}, 422),
        ({"concepts": [{"text": "x"}], "model": "sam-b"}, 409),
    ],
)
async def test_what_is_invalid_or_impossible_is_refused(
    http: httpx.AsyncClient, asked: dict[str, Any], status: int
) -> None:
    answer = await ask(http, **asked)
    assert answer.status_code == status, answer.text
    if status == 409:
        assert answer.json()["code"] == "NO_CONCEPTS"
