"""The REST interface: images, masks, embeddings, models, and failures by field."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from contract.conftest import SIZE
from PIL import Image
from samserve.client import AsyncClient
from samserve.core.image_id import image_id
from samserve.core.rle import decode_rle
from samserve.gateway.app import build
from samserve.gateway.problem import NOT_REACHED
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings

CLICK = {"points": [{"x": 160, "y": 100}]}
UNKNOWN = "0" * 64


@pytest.fixture
async def embedded(http: httpx.AsyncClient, picture: bytes) -> str:
    answer = await http.post("/v1/images", content=picture)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["image_id"])


async def masks(http: httpx.AsyncClient, image: str, **asked: Any) -> list[dict[str, Any]]:
    answer = await http.post(f"/v1/images/{image}/masks", json={"prompts": [CLICK], **asked})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"][0]["masks"]
    return found


async def test_an_image_is_added_as_bytes_or_as_a_form_and_known_by_its_id(
    http: httpx.AsyncClient, picture: bytes
) -> None:
    name = image_id(picture)
    unknown = await http.post("/v1/images", json={"image_id": name})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "EMBEDDING_NOT_CACHED")
    assert "send the image's bytes" in unknown.json()["detail"]

    first = await http.post("/v1/images", content=picture, headers={"content-type": "image/png"})
    form = await http.post("/v1/images", files={"file": ("photo.png", picture)})
    named = await http.post("/v1/images", json={"image_id": name})
    assert [each.json()["cache"] for each in (first, form, named)] == ["MISS", "HIT", "HIT"]
    for each in (first, form, named):
        body = each.json()
        assert (body["image_id"], body["width"], body["height"]) == (name, SIZE.width, SIZE.height)


async def test_masks_come_in_every_format_and_agree(http: httpx.AsyncClient, embedded: str) -> None:
    formats = ["rle", "polygons", "geojson", "png", "bits"]
    found = await masks(http, embedded, formats=formats, polygon_tolerance=0, low_res_logits=True)
    assert sorted(mask["candidate"] for mask in found) == [0, 1, 2]
    for mask in found:
        height, width = mask["rle"]["size"]
        pixels = decode_rle(mask["rle"]["counts"].encode(), height, width)
        assert pixels.sum() == mask["area"]
        png = Image.open(io.BytesIO(base64.b64decode(mask["png"])))
        assert np.array_equal(np.asarray(png), pixels)
        assert base64.b64decode(mask["bits"]) == np.packbits(pixels, axis=1).tobytes()
        assert len(base64.b64decode(mask["low_res_logits"])) == 2 * 256 * 256

        assert mask["geojson"]["type"] == "MultiPolygon"
        for polygon, written in zip(mask["polygons"], mask["geojson"]["coordinates"], strict=True):
            rings = [polygon["exterior"], *polygon["holes"]]
            assert written == [[*ring, ring[0]] for ring in rings]


async def test_a_mask_is_refined_by_its_logits(http: httpx.AsyncClient, embedded: str) -> None:
    first = (await masks(http, embedded, low_res_logits=True))[0]
    prompt = {**CLICK, "mask_input": first["low_res_logits"], "multimask": False}
    refined = await masks(http, embedded, prompts=[prompt])
    assert len(refined) == 1
    assert refined[0]["rle"]


async def test_prompts_of_mixed_kinds_are_answered_in_their_order(
    http: httpx.AsyncClient, embedded: str
) -> None:
    prompts = [{"box": [10, 10, 100, 90]}, CLICK, {"box": [50, 50, 200, 190], **CLICK}]
    together = await http.post(f"/v1/images/{embedded}/masks", json={"prompts": prompts})
    alone = [await masks(http, embedded, prompts=[prompt]) for prompt in prompts]
    results = together.json()["results"]
    assert len(results) == len(prompts)
    for result, expected in zip(results, alone, strict=True):
        scores = [[mask["predicted_iou"] for mask in each] for each in (result["masks"], expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


async def test_an_embedding_is_streamed(http: httpx.AsyncClient, embedded: str) -> None:
    answer = await http.get(f"/v1/images/{embedded}/embedding")
    described = json.loads(answer.headers["samserve-embedding"])
    assert (described["width"], described["height"]) == (SIZE.width, SIZE.height)
    (tensor,) = described["tensors"]
    assert (tensor["name"], tensor["dtype"]) == ("embedding", "float16")
    values = np.frombuffer(answer.content, "<f2").reshape(tensor["shape"])
    assert np.isfinite(values).all()


async def test_a_deleted_image_must_be_added_again(http: httpx.AsyncClient, embedded: str) -> None:
    assert (await http.delete(f"/v1/images/{embedded}")).status_code == 204
    again = await http.delete(f"/v1/images/{embedded}")
    assert (again.status_code, again.json()["code"]) == (404, "EMBEDDING_NOT_CACHED")


async def test_models_are_listed(http: httpx.AsyncClient) -> None:
    (model,) = (await http.get("/v1/models")).json()["models"]
    assert (model["name"], model["default"], model["side"]) == ("nano", True, 1024)


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        ({"prompts": []}, 422, "prompts"),
        ({"prompts": [{}]}, 422, "prompts[0]"),
        ({"prompts": [CLICK] * 65}, 422, "prompts"),
        ({"prompts": [{"points": [{"x": 1, "y": 1}] * 65}]}, 422, "prompts[0].points"),
        ({"prompts": [{"points": [{"x": 1}]}]}, 422, "prompts[0].points[0].y"),
        ({"prompts": [{"box": [1, 2, 3]}]}, 422, "prompts[0].box"),
        ({"prompts": [CLICK], "formats": ["gif"]}, 422, "formats[0]"),
        ({"prompts": [CLICK], "formates": []}, 422, "formates"),
        ({"prompts": [CLICK], "model": "m" * 65}, 422, "model"),
        ({"prompts": [CLICK], "max_masks": 4}, 422, "max_masks"),
        ({"prompts": [{"mask_input": "!"}]}, 422, "prompts[0].mask_input"),
        ({"prompts": [{"mask_input": "AAAA"}]}, 400, "prompts[0].mask_input"),
        ({"prompts": [{"box": [9, 9, 3, 3]}]}, 400, "prompts[0].box"),
        ({"prompts": [{"points": [{"x": 5000, "y": 1}]}]}, 400, "prompts[0].points"),
    ],
)
async def test_bad_prompts_are_refused_by_field(
    http: httpx.AsyncClient, embedded: str, asked: dict[str, Any], status: int, field: str
) -> None:
    answer = await http.post(f"/v1/images/{embedded}/masks", json=asked)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["field"]) == (status, status, field)
    assert problem["code"] == "INVALID_INPUT"
    assert field in problem["detail"]


async def test_other_failures_have_their_status(http: httpx.AsyncClient, embedded: str) -> None:
    async def post(path: str, **more: Any) -> tuple[int, str]:
        answer = await http.post(path, **more)
        return answer.status_code, answer.json()["code"]

    one = {"prompts": [CLICK]}
    assert await post(f"/v1/images/{UNKNOWN}/masks", json=one) == (404, "EMBEDDING_NOT_CACHED")
    assert await post("/v1/images/abc/masks", json=one) == (422, "INVALID_INPUT")
    other = {**one, "model": "other"}
    assert await post(f"/v1/images/{embedded}/masks", json=other) == (404, "MODEL_NOT_FOUND")
    assert await post("/v1/images", content=b"no image") == (400, "INVALID_INPUT")
    assert await post("/v1/images") == (415, "UNSUPPORTED_BODY")
    assert await post("/v1/images", data={"file": "text"}) == (400, "INVALID_INPUT")
    assert await post("/v1/images", json={"image_id": "x"}) == (422, "INVALID_INPUT")
    assert await post("/v1/nothing") == (404, "NOT_FOUND")
    assert await post("/v1/models") == (405, "METHOD_NOT_ALLOWED")


async def test_the_callers_request_id_comes_back(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/models", headers={"x-request-id": "click-7"})
    assert answer.headers["x-request-id"] == "click-7"
    assert (await http.get("/v1/models")).headers["x-request-id"]


async def test_it_is_ready_while_a_decoder_answers(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).json() == {"status": "ready"}


async def test_addresses_of_services_are_not_told() -> None:
    service = Service(GatewaySettings(), AsyncClient("127.0.0.1:1", "127.0.0.1:1", timeout=1))
    transport = httpx.ASGITransport(build(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answer = await http.get("/readyz")
    await service.close()
    assert (answer.status_code, answer.json()["detail"]) == (503, NOT_REACHED)
