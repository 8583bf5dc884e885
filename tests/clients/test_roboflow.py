"""Roboflow's own client, unchanged, against the running stack."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clients.venvs import client_venv
from samserve.client import Box, Click, Client, Mask, Prompt
from samserve.core.image_id import image_id
from samserve.core.rle import decode_rle
from samserve.local.stack import Stack
from stacks import CAP

PACKAGES = ["inference-sdk==1.8.3"]
CALLS = Path(__file__).parent / "roboflow_calls.py"
CLICK = Prompt([Click(213, 193)])
MIXED = [
    Prompt(box=Box(186, 168, 240, 222)),
    CLICK,
    Prompt([Click(213, 193)], Box(100, 52, 148, 98)),
    Prompt([Click(124, 75), Click(150, 75, on=False)]),
    Prompt([Click(300, 120)]),
]


@pytest.fixture(scope="module")
def answers(stack: Stack, coins: Path) -> dict[str, Any]:
    """What its methods returned."""
    python = client_venv("inference-sdk", PACKAGES)
    done = subprocess.run(
        [str(python), "-W", "ignore", str(CALLS), stack.addresses.gateway, str(coins)],
        capture_output=True,
        text=True,
        check=False,
        timeout=CAP,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    returned: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return returned


def best(masks: list[Mask]) -> Mask:
    return max(masks, key=lambda mask: mask.predicted_iou)


def test_the_server_and_its_models_are_listed(answers: dict[str, Any]) -> None:
    assert answers["info"]["name"] == "samserve"
    assert answers["models"] == answers["models_async"] == ["nano"]


def test_an_embedded_image_is_named_by_the_caller_or_by_its_hash(
    answers: dict[str, Any], coins: Path
) -> None:
    assert answers["named"]["image_id"] == answers["with_key"]["image_id"] == "coins"
    for name in ("embedded", "embedded_async"):
        assert answers[name]["image_id"] == image_id(coins.read_bytes())


@pytest.mark.parametrize("name", ["rle", "visual", "rle_async", "visual_async"])
def test_a_click_gets_the_mask_of_the_highest_predicted_iou(
    answers: dict[str, Any], client: Client, coins: Path, name: str
) -> None:
    expected = best(client.predict(coins, [CLICK]).masks)
    (prediction,) = answers[name]["predictions"]
    assert prediction["masks"]["counts"] == expected.rle.decode()
    assert prediction["confidence"] == pytest.approx(expected.predicted_iou)


def test_polygons_are_those_that_opencv_finds_in_the_mask(
    answers: dict[str, Any], client: Client, coins: Path
) -> None:
    mask = best(client.predict(coins, [CLICK]).masks).array()
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    (prediction,) = answers["polygons"]["predictions"]
    assert prediction["masks"] == [contour[:, 0].tolist() for contour in contours]
    assert len(answers["two_images"]) == 2


def test_mixed_boxes_and_points_get_one_prediction_each(
    answers: dict[str, Any], client: Client, coins: Path
) -> None:
    expected = [best(masks) for masks in client.predict(coins, MIXED).results]
    found = answers["mixed"]["predictions"]
    assert [each["masks"]["counts"] for each in found] == [mask.rle.decode() for mask in expected]

    arrays = np.load(io.BytesIO(base64.b64decode(answers["binary_async"])))
    assert len(arrays["masks"]) == len(MIXED)
    for pixels, each in zip(arrays["masks"], found, strict=True):
        counts = each["masks"]["counts"].encode()
        assert np.array_equal(pixels > 0, decode_rle(counts, *pixels.shape))


def test_failures_reach_the_caller_as_messages(answers: dict[str, Any]) -> None:
    assert answers["refused"] == [400, "prompts: none given; send at least one point or box"]
    status, message = answers["concepts"]
    assert status == 501
    assert "text prompts" in message
