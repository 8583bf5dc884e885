"""CVAT's functions, by requests as CVAT sends them."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import numpy as np
import pytest
from contract.gateway.fake_client import FakeClient, app_of, fake_service
from contract.gateway.masks import drawn, iou, of_cvat, without_holes
from contract.gateway.payloads import payload, picture, replay
from fastapi import FastAPI
from samserve.client import Box, Click, Prompt
from samserve.core.errors import Unavailable
from samserve.gateway import cvat
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings

BOX = Box(12.1, 7.3, 28.0, 23.9)


@pytest.fixture(scope="module")
def service() -> Service:
    return fake_service(GatewaySettings())


@pytest.fixture(scope="module")
def gateway_app(service: Service) -> FastAPI:
    return app_of(cvat.routes, service)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("points", Prompt([Click(20.4, 15.2), Click(2, 3, on=False)])),
        ("box", Prompt(box=BOX)),
        ("box-and-points", Prompt([Click(20, 15)], BOX)),
    ],
)
async def test_clicks_and_boxes_are_answered_with_the_runs_of_the_best_mask(
    http: httpx.AsyncClient, service: Service, name: str, prompt: Prompt
) -> None:
    answer = await replay(http, f"cvat/{name}")
    assert answer.status_code == 200, answer.text
    best = (await service.client.predict(picture(), [prompt])).masks[0]
    (shape,) = answer.json()["shapes"]
    assert shape["type"] == "mask"
    assert np.array_equal(of_cvat(shape["points"], 30, 40), best.array())
    assert shape["attributes"] == [{"spec_id": 0, "value": f"{best.predicted_iou:.3f}"}]


async def test_the_detector_answers_every_object_with_its_pixels_and_outline(
    http: httpx.AsyncClient, service: Service
) -> None:
    detector = (await http.get("/api/functions/samserve-everything")).json()
    annotations = detector["metadata"]["annotations"]
    assert annotations["type"] == "detector"
    assert json.loads(annotations["spec"]) == [{"id": 0, "name": "object", "type": "mask"}]

    found = (await detect(http)).json()
    records = (await service.client.generate_masks(picture())).records
    assert len(found) == len(records) == 2
    for each, record in zip(found, records, strict=True):
        assert (each["label"], each["type"]) == ("object", "mask")
        assert each["confidence"] == f"{record.mask.predicted_iou:.3f}"
        *pixels, left, top, right, bottom = each["mask"]
        mask = record.mask.array()
        part = mask[top : bottom + 1, left : right + 1]
        assert pixels == part.ravel().astype(int).tolist()
        assert part.sum() == mask.sum()
        outline = drawn([np.reshape(each["points"], (-1, 2)).tolist()], 30, 40)
        assert 0.8 < iou(outline, without_holes(mask)) <= 1  # the largest part alone


async def test_the_detectors_threshold_is_a_least_predicted_iou(http: httpx.AsyncClient) -> None:
    assert (await detect(http, threshold=0.99)).json() == []


async def test_a_detection_of_too_many_pixels_is_refused(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cvat, "MAX_DETECTED_PIXELS", 100)
    answer = await detect(http)
    assert answer.status_code == 400
    assert "the limit is 100" in answer.json()["message"]


async def detect(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    headers = {"x-nuclio-function-name": "samserve-everything"}
    body["image"] = payload("cvat/points")["body"]["image"]
    return await http.post("/api/function_invocations", json=body, headers=headers)


@pytest.mark.parametrize("prefix", ["", "/cvat"])
async def test_there_is_an_interactor_for_each_model(http: httpx.AsyncClient, prefix: str) -> None:
    listed = (await http.get(f"{prefix}/api/functions")).json()
    assert listed.pop("samserve-everything")
    assert list(listed) == ["samserve", "samserve-sam-b"]
    for name, function in listed.items():
        assert (await http.get(f"{prefix}/api/functions/{name}")).json() == function
        assert function["metadata"]["name"] == name
        annotations = function["metadata"]["annotations"]
        assert annotations["type"] == "interactor"
        assert all(isinstance(value, str) for value in annotations.values())
        assert function["status"]["state"] == "ready"

    headers = {"x-nuclio-function-name": "samserve-sam-b"}
    body = payload("cvat/points")["body"]
    answer = await http.post(f"{prefix}/api/function_invocations", json=body, headers=headers)
    assert answer.status_code == 200


async def test_an_unknown_function_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/functions/pth-sam")
    assert answer.status_code == 404
    assert "available: samserve, samserve-sam-b" in answer.json()["message"]


async def test_without_a_decoder_the_default_function_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = fake_service(GatewaySettings())

    async def fail() -> Any:
        raise Unavailable("the decoder is down")

    monkeypatch.setattr(service, "models", fail)
    transport = httpx.ASGITransport(app_of(cvat.routes, service))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert list((await replay(http, "cvat/functions")).json()) == [
            "samserve",
            "samserve-everything",
        ]


@pytest.mark.parametrize(
    ("changed", "status", "expected"),
    [
        ({"pos_points": [], "neg_points": []}, 400, "pos_points: no point and no box"),
        ({"obj_bbox": [[1, 2]]}, 400, "obj_bbox: one corner"),
        ({"pos_points": [[1, 2]] * 65}, 422, "pos_points"),
        ({"pos_points": [[1]]}, 422, "pos_points"),
        ({"pos_points": [[99, 2]]}, 400, "40 x 30"),
        ({"image": "aGVsbG8="}, 400, "image"),
    ],
)
async def test_a_failure_is_one_message(
    http: httpx.AsyncClient, changed: dict[str, Any], status: int, expected: str
) -> None:
    answer = await replay(http, "cvat/points", **changed)
    assert (answer.status_code, answer.json().keys()) == (status, {"message"})
    assert expected in answer.json()["message"]


async def test_a_call_waits_for_busy_services_as_long_as_cvat_waits(
    http: httpx.AsyncClient, service: Service
) -> None:
    await replay(http, "cvat/points")
    assert cast(FakeClient, service.client).timeouts[-1] == service.settings.patience_s


class TestOlderVersions:
    @pytest.fixture
    def service(self) -> Service:
        return fake_service(GatewaySettings(cvat_answer="mask"))

    @pytest.fixture
    def gateway_app(self, service: Service) -> FastAPI:
        return app_of(cvat.routes, service)

    async def test_the_answer_is_rows_of_zeros_and_ones(
        self, http: httpx.AsyncClient, service: Service
    ) -> None:
        answer = await replay(http, "cvat/box")
        best = (await service.client.predict(picture(), [Prompt(box=BOX)])).masks[0]
        assert answer.json() == {"mask": best.array().astype(int).tolist()}
