"""The same click through every surface gives the same mask, but for what its coding drops."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from contract.gateway.fake_client import FakeClient, fake_service
from contract.gateway.masks import drawn, iou, of_cvat, without_holes
from fastapi import FastAPI
from PIL import Image
from samserve.client import Click, Prompt
from samserve.core.arrays import Bools
from samserve.core.rle import decode_rle
from samserve.gateway import cvat
from samserve.gateway.roboflow import routes as roboflow
from samserve.gateway.service import Service
from samserve.gateway.xanylabeling import routes as xanylabeling
from samserve.infra.settings import GatewaySettings

WIDTH, HEIGHT = 800, 600
X, Y = 410, 290
AT_LEAST = 0.999
ONE_BEST = ((0.9, 0.95, 0.4),)  # the candidate that every surface chooses


@pytest.fixture(scope="module")
def photo() -> str:
    out = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module", params=["shapes", "mask"])
def service(request: pytest.FixtureRequest) -> Service:
    settings = GatewaySettings(cvat_answer=request.param)
    return fake_service(settings, FakeClient(candidates=ONE_BEST))


@pytest.fixture(scope="module")
def gateway_app(service: Service) -> FastAPI:
    app = FastAPI()
    for surface in (roboflow, cvat, xanylabeling):
        app.include_router(surface.routes(service))
    return app


@pytest.fixture
async def mask(service: Service, photo: str) -> AsyncIterator[Bools]:
    """The mask itself: a ring, and a small disc."""
    prompt = Prompt([Click(X, Y)])
    yield (await service.client.predict(base64.b64decode(photo), [prompt])).masks[0].array()


async def answer(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    answered = await http.post(path, json=body)
    assert answered.status_code == 200, answered.text
    return answered


async def through_roboflow(http: httpx.AsyncClient, photo: str, form: str) -> httpx.Response:
    click = {"points": [{"x": X, "y": Y, "positive": True}]}
    body = {"image": {"type": "base64", "value": photo}, "prompts": click, "format": form}
    return await answer(http, "/sam2/segment_image", body)


async def test_run_lengths_and_pixels_of_roboflow_keep_the_mask(
    http: httpx.AsyncClient, photo: str, mask: Bools
) -> None:
    rle = (await through_roboflow(http, photo, "rle")).json()["predictions"][0]["masks"]
    assert iou(decode_rle(rle["counts"].encode(), *rle["size"]), mask) == 1
    arrays = np.load(io.BytesIO((await through_roboflow(http, photo, "binary")).content))
    assert iou(arrays["masks"][0] > 0, mask) == 1


async def test_polygons_of_roboflow_drop_holes_alone(
    http: httpx.AsyncClient, photo: str, mask: Bools
) -> None:
    found = (await through_roboflow(http, photo, "json")).json()["predictions"][0]["masks"]
    assert iou(drawn(found, HEIGHT, WIDTH), without_holes(mask)) >= AT_LEAST
    assert iou(drawn(found, HEIGHT, WIDTH), mask) < AT_LEAST


async def test_cvats_masks_keep_the_mask(
    http: httpx.AsyncClient, service: Service, photo: str, mask: Bools
) -> None:
    body = {"image": photo, "pos_points": [[X, Y]], "neg_points": [], "obj_bbox": None}
    found = (await answer(http, "/api/function_invocations", body)).json()
    if service.settings.cvat_answer == "mask":
        read = np.array(found["mask"], bool)
    else:
        read = of_cvat(found["shapes"][0]["points"], HEIGHT, WIDTH)
    assert iou(read, mask) == 1


@pytest.mark.parametrize(("epsilon_factor", "least"), [(0.0, AT_LEAST), (0.001, 0.99)])
async def test_polygons_of_xanylabeling_drop_holes_and_small_parts(
    http: httpx.AsyncClient, photo: str, mask: Bools, epsilon_factor: float, least: float
) -> None:
    marks = [{"type": "point", "data": [X, Y], "label": 1}]
    params = {"marks": marks, "epsilon_factor": epsilon_factor}
    body = {"model": "sam", "image": photo, "params": params}
    found = (await answer(http, "/xanylabeling/v1/predict", body)).json()["data"]["shapes"]
    ring = mask.copy()
    ring[: HEIGHT // 4, : WIDTH // 8 + HEIGHT // 12] = False  # the small disc
    read = drawn([shape["points"] for shape in found], HEIGHT, WIDTH)
    assert iou(read, without_holes(ring)) >= least
