"""Segmenting everything over HTTP: events of progress, then the masks, or a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from contract.gateway.conftest import serving
from fastapi import FastAPI
from samserve.client import AsyncClient
from samserve.core.errors import Unavailable
from samserve.core.rle import decode_rle, encode_rle
from samserve.core.runs import runs_of

ALL = {"points_per_side": 3, "points_per_batch": 3, "pred_iou_thresh": 0}
KEEP = {**ALL, "stability_score_thresh": 0, "box_nms_thresh": 1}


@pytest.fixture
async def url(http: httpx.AsyncClient, picture: bytes) -> str:
    image = (await http.post("/v1/images", content=picture)).json()["image_id"]
    return f"/v1/images/{image}/everything"


def events(text: str) -> list[tuple[str, Any]]:
    """Parse server-sent events."""
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
    return found


async def test_progress_comes_before_the_masks(http: httpx.AsyncClient, url: str) -> None:
    answer = await http.post(url, json={**KEEP, "formats": ["rle", "geojson"]})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *progress, (name, found) = events(answer.text)
    assert name == "masks"
    assert [each for each, _ in progress] == ["progress"] * len(progress)
    assert progress[-1][1] == {"done": 9, "points": 9}
    assert found["found"] == len(found["masks"]) > 0
    for mask in found["masks"]:
        height, width = mask["rle"]["size"]
        assert decode_rle(mask["rle"]["counts"].encode(), height, width).sum() == mask["area"] > 0
        assert mask["geojson"]["type"] == "MultiPolygon"
        assert mask["crop_box"] == [0, 0, 320, 200]


async def test_proposals_leave_out_what_is_accepted(http: httpx.AsyncClient, url: str) -> None:
    url = url.replace("everything", "proposals")
    asked = {"points_per_side": 3, "pred_iou_thresh": 0, "stability_score_thresh": 0}
    _, found = events((await http.post(url, json=asked)).text)[-1]
    for mask in found["masks"]:
        assert 0 <= mask["disagreement"] <= 1
        assert mask["sure"] or 0 <= mask["ask"][0] <= 320

    whole = encode_rle(runs_of(np.ones((200, 320), np.bool_))).decode()
    accepted = [{"size": [200, 320], "counts": whole}]
    _, left = events((await http.post(url, json={**asked, "accepted": accepted})).text)[-1]
    assert len(found["masks"]) > len(left["masks"]) == 0


@pytest.mark.parametrize(
    "region",
    [{"size": [200], "counts": "0"}, {"size": [200, 320], "counts": "\u00e9"}, {"counts": "0"}],
)
async def test_a_malformed_accepted_region_is_refused(
    http: httpx.AsyncClient, url: str, region: dict[str, Any]
) -> None:
    answer = await http.post(url.replace("everything", "proposals"), json={"accepted": [region]})
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("accepted[0]")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"points_per_side": 65}, "points_per_side"),
        ({"crop_n_layers": 3}, "crop_n_layers"),
        ({"pred_iou_thresh": 2}, "pred_iou_thresh"),
        ({"points_pre_side": 3}, "points_pre_side"),
    ],
)
async def test_bad_parameters_are_refused_by_field(
    http: httpx.AsyncClient, url: str, asked: dict[str, Any], field: str
) -> None:
    answer = await http.post(url, json=asked)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_an_unknown_image_is_refused_before_the_first_event(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"/v1/images/{'0' * 64}/everything", json={})
    assert (answer.status_code, answer.json()["code"]) == (404, "EMBEDDING_NOT_CACHED")


async def test_a_failure_after_the_first_event_is_an_event(
    http: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, on_progress: Any, **__: object) -> None:
        on_progress(1, 9)
        await asyncio.sleep(0)
        raise Unavailable("the decoder is gone")

    monkeypatch.setattr(AsyncClient, "generate_masks", fail)
    first, (name, problem) = events((await http.post(url, json={})).text)
    assert first == ("progress", {"done": 1, "points": 9})
    assert (name, problem["status"], problem["code"]) == ("problem", 503, "UNAVAILABLE")


async def test_the_work_ends_when_the_caller_leaves(
    gateway_app: FastAPI, http: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def run_for_ever(*_: object, on_progress: Any, **__: object) -> None:
        on_progress(1, 9)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(AsyncClient, "generate_masks", run_for_ever)
    async with serving(gateway_app) as address, httpx.AsyncClient(base_url=address) as client:
        async with client.stream("POST", url, json={}) as answer:
            await anext(answer.aiter_bytes())
            assert not ended.is_set()
        await ended.wait()
