"""X-AnyLabeling's protocol, by requests as its window sends them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from contract.gateway.fake_client import app_of, fake_service
from contract.gateway.masks import drawn, iou
from contract.gateway.payloads import payload, picture, replay
from fastapi import FastAPI
from samserve.client import Box, Click, Prompt
from samserve.core.contours import external_contours
from samserve.gateway.service import Service
from samserve.gateway.xanylabeling import routes as xanylabeling
from samserve.infra.settings import GatewaySettings

PREDICT = "/xanylabeling/v1/predict"


@pytest.fixture(scope="module")
def service() -> Service:
    return fake_service(GatewaySettings())


@pytest.fixture(scope="module")
def gateway_app(service: Service) -> FastAPI:
    return app_of(xanylabeling.routes, service)


async def shapes(http: httpx.AsyncClient, name: str, **params: Any) -> list[dict[str, Any]]:
    sent = payload(f"xanylabeling/{name}")["body"]
    answer = await replay(http, f"xanylabeling/{name}", params={**sent["params"], **params})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert content["success"] is True
    assert (content["data"]["description"], content["data"]["replace"]) == ("", False)
    found: list[dict[str, Any]] = content["data"]["shapes"]
    assert all(shape["label"] == "AUTOLABEL_OBJECT" for shape in found)
    return found


async def test_points_are_answered_with_closed_polygons_of_the_best_mask(
    http: httpx.AsyncClient, service: Service
) -> None:
    found = await shapes(http, "points", epsilon_factor=0)
    prompt = Prompt([Click(20, 15), Click(2, 3, on=False)])
    best = (await service.client.predict(picture(), [prompt])).masks[0]
    largest = max(external_contours(best.runs()), key=len).tolist()
    (shape,) = found  # the small disc beside the ring is left out
    assert shape["shape_type"] == "polygon"
    assert shape["points"][0] == shape["points"][-1]
    assert shape["score"] == pytest.approx(best.predicted_iou)
    assert iou(drawn([shape["points"]], 30, 40), drawn([largest], 30, 40)) == 1


async def test_a_larger_factor_gives_fewer_points(http: httpx.AsyncClient) -> None:
    fine, coarse = [
        sum(len(shape["points"]) for shape in await shapes(http, "points", epsilon_factor=factor))
        for factor in (0, 0.02)
    ]
    assert 3 < coarse < fine


async def test_several_rectangles_are_several_objects(
    http: httpx.AsyncClient, service: Service
) -> None:
    assert len(await shapes(http, "rectangles")) == 2


async def test_a_rectangle_drawn_upwards_with_points_is_one_object(
    http: httpx.AsyncClient, service: Service
) -> None:
    (found,) = await shapes(http, "rectangle-and-points")
    prompt = Prompt([Click(20, 15)], Box(12, 7, 28, 23))
    x0, y0, x1, y1 = (await service.client.predict(picture(), [prompt])).masks[0].bbox
    assert found["shape_type"] == "rectangle"
    assert found["points"] == [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


async def test_points_beside_several_rectangles_are_another_object(
    http: httpx.AsyncClient,
) -> None:
    marks = payload("xanylabeling/rectangles")["body"]["params"]["marks"]
    inside = {"type": "point", "data": [35, 25], "label": 1}
    beside = {"type": "point", "data": [5, 25], "label": 1}
    assert len(await shapes(http, "rectangles", marks=[*marks, inside])) == 2
    assert len(await shapes(http, "rectangles", marks=[*marks, inside, beside])) == 3
    beside["label"] = 0
    assert len(await shapes(http, "rectangles", marks=[*marks, inside, beside])) == 2


async def test_everything_is_outlined_without_marks(http: httpx.AsyncClient) -> None:
    found = await shapes(http, "everything")
    assert [shape["shape_type"] for shape in found] == ["polygon", "polygon"]
    assert await shapes(http, "everything", conf_threshold=0.99) == []


async def test_the_server_is_described(http: httpx.AsyncClient) -> None:
    health = (await replay(http, "xanylabeling/health")).json()
    assert health["status"] == "healthy"
    listed = (await replay(http, "xanylabeling/models")).json()
    assert listed["success"] is True
    assert list(listed["data"]) == ["sam", "sam-box", "sam-everything"]
    for model, described in listed["data"].items():
        info = (await http.get(f"/xanylabeling/v1/models/{model}/info")).json()
        assert info == {"success": True, "data": described}
        assert all(widget.keys() == {"name", "value"} for widget in described["widgets"])


@pytest.mark.parametrize(
    ("name", "changed", "status", "code"),
    [
        ("no-marks", {}, 400, "INVALID_INPUT"),
        ("points", {"model": "yolo"}, 404, "MODEL_NOT_FOUND"),
        ("points", {"image": "data:image/png;base64,aGVsbG8="}, 400, "INVALID_INPUT"),
        ("points", {"params": {"marks": [{"type": "circle", "data": [1, 2]}]}}, 422, None),
        ("points", {"params": {"epsilon_factor": 7}}, 422, None),
        (
            "points",
            {"params": {"marks": [{"type": "rectangle", "data": [1, 2, 3], "label": 1}]}},
            400,
            "INVALID_INPUT",
        ),
        (
            "points",
            {"params": {"marks": [{"type": "rectangle", "data": [1, 2, 3, 4], "label": 0}]}},
            400,
            "INVALID_INPUT",
        ),
    ],
)
async def test_a_failure_has_a_status_that_the_window_shows(
    http: httpx.AsyncClient, name: str, changed: dict[str, Any], status: int, code: str | None
) -> None:
    answer = await replay(http, f"xanylabeling/{name}", **changed)
    content = answer.json()
    assert (answer.status_code, content["success"]) == (status, False)
    assert content["error"]["message"] == content["detail"]
    assert code in (None, content["error"]["code"])


async def test_an_unknown_model_has_no_description(http: httpx.AsyncClient) -> None:
    answer = await http.get("/xanylabeling/v1/models/yolo/info")
    assert answer.status_code == 404
    assert "available: sam, sam-box, sam-everything" in answer.json()["detail"]
