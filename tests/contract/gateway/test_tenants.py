"""Tenants at the gateway: believed from the edge alone, and refused in each surface's form."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from contract.conftest import Path
from pydantic import SecretStr
from samserve.infra.settings import GatewaySettings

EDGE = "the-edge's-own-secret"


@pytest.fixture
def edge_secret() -> str:
    return EDGE


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings(
        edge_secret=SecretStr(EDGE),
        label_studio_url="http://127.0.0.1:9",
        label_studio_tenant="studio",
    )


def of(tenant: str) -> dict[str, str]:
    return {"samserve-tenant": tenant, "samserve-edge": EDGE}


@pytest.mark.parametrize("sent", [None, "guessed-guessed-guessed"])
@pytest.mark.parametrize(
    ("method", "route", "key"),
    [
        ("GET", "/v1/models", "detail"),
        ("POST", "/v1/images", "detail"),
        ("POST", "/sam2/embed_image", "message"),
        ("GET", "/api/functions", "message"),
        ("POST", "/label-studio/predict", "detail"),
        ("GET", "/xanylabeling/v1/models", "error"),
    ],
)
async def test_a_tenant_forged_past_the_edge_is_refused_in_the_surfaces_form(
    http: httpx.AsyncClient, method: str, route: str, key: str, sent: str | None
) -> None:
    headers = {"samserve-tenant": "acme", **({"samserve-edge": sent} if sent else {})}
    answer = await http.request(method, route, headers=headers)
    assert answer.status_code == 401
    assert "credentials" in json.dumps(answer.json()[key])
    assert "acme" not in answer.text


async def test_probes_need_no_credentials(http: httpx.AsyncClient) -> None:
    for route in ("/healthz", "/readyz"):
        assert (await http.get(route)).status_code == 200


async def test_a_requests_tenant_is_passed_on(
    http: httpx.AsyncClient, path: Path, picture: bytes
) -> None:
    answers = [await http.post("/v1/images", content=picture, headers=of(t)) for t in ("a", "b")]
    assert [answer.json()["cache"] for answer in answers] == ["MISS", "MISS"]
    image = answers[0].json()["image_id"]
    asked = {"prompts": [{"points": [{"x": 9, "y": 9}]}]}
    statuses = [
        (await http.post(f"/v1/images/{image}/masks", json=asked, headers=of(t))).status_code
        for t in ("a", "b", "c")
    ]
    assert statuses == [200, 200, 404]


async def test_a_name_that_another_tenant_gave_to_an_image_is_unknown(
    http: httpx.AsyncClient, picture: bytes
) -> None:
    image = {"type": "base64", "value": base64.b64encode(picture).decode()}
    named = {"image_id": "one", "api_key": "the same"}
    headers = of("a")
    added = await http.post("/sam2/embed_image", json={**named, "image": image}, headers=headers)
    assert added.status_code == 200

    for tenant, status in (("a", 200), ("b", 404)):
        answer = await http.post("/sam2/embed_image", json=named, headers=of(tenant))
        assert answer.status_code == status


async def test_only_its_own_tenant_may_use_the_token_of_label_studio(
    http: httpx.AsyncClient,
) -> None:
    config = (
        '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">'
        '<Label value="x"/></BrushLabels></View>'
    )
    task = {"id": 1, "data": {"image": "/data/upload/1/secret.png"}}
    body = {"tasks": [task], "project": "1.1", "label_config": config, "params": {}}
    answers = [
        await http.post("/label-studio/predict", json=body, headers=of(tenant))
        for tenant in ("another", "studio")
    ]
    assert answers[0].status_code == 403
    assert answers[1].status_code == 400  # it was asked, but is not there
