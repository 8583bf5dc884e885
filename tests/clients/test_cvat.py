"""CVAT's own agent with samserve's function, and CVAT's own coding of masks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients.cvat_server import FUNCTION, LABEL, TASK, CvatServer, serving
from clients.venvs import client_venv
from samserve.client import Box, Click, Client, GridOptions, Prompt
from samserve.local.stack import Stack
from stacks import CAP

# samserve itself is on the path; these are what its client imports.
OURS = ["googleapis-common-protos", "grpcio", "grpcio-status", "protobuf<7", "structlog"]
PACKAGES = ["cvat-cli==2.80.0", "cvat-sdk[masks]==2.80.0", *OURS]
SERVICES = Path(__file__).parents[2] / "services"
WIDTH, HEIGHT = 384, 303
POINTS = 12  # of the grid's side

REQUESTS: list[dict[str, Any]] = [
    {"pos_points": [[213.5, 193.5]], "neg_points": [], "obj_bbox": []},
    {"pos_points": [[213, 193], [220, 200]], "neg_points": [[10, 10]], "obj_bbox": []},
    {"pos_points": [], "neg_points": [], "obj_bbox": [[186, 168], [240, 222]]},
    {"pos_points": [[213, 193]], "neg_points": [], "obj_bbox": [[186, 168], [240, 222]]},
]
PROMPTS = [
    Prompt([Click(213.5, 193.5)]),
    Prompt([Click(213, 193), Click(220, 200), Click(10, 10, on=False)]),
    Prompt(box=Box(186, 168, 240, 222)),
    Prompt([Click(213, 193)], Box(186, 168, 240, 222)),
]
DECODE = """
import json, sys
from cvat_sdk.masks import decode_mask
points, width, height = json.load(sys.stdin)
decoded = [decode_mask(each, image_width=width, image_height=height) for each in points]
print(json.dumps([mask.nonzero()[0].tolist() + mask.nonzero()[1].tolist() for mask in decoded]))
"""


@pytest.fixture(scope="module")
def cvat_python() -> Path:
    return client_venv("cvat", PACKAGES)


@pytest.fixture(scope="module")
def cvat(stack: Stack, cvat_python: Path, coins: Path) -> CvatServer:
    """CVAT after its agent has answered all requests."""
    requests = [{"type": "interact", **request} for request in REQUESTS]
    server = CvatServer(coins.read_bytes(), (WIDTH, HEIGHT), requests)
    run(cvat_python, server, stack, "function", "run-agent", str(FUNCTION), "--burst")
    return server


def run(python: Path, server: CvatServer, stack: Stack, *command: str) -> None:
    """Run a command of cvat-cli with samserve's function."""
    with serving(server):
        done = subprocess.run(
            [
                str(python.parent / "cvat-cli"),
                "--server-host=http://127.0.0.1",
                f"--server-port={server.port}",
                *command,
                *("--function-module", "samserve.integrations.cvat"),
                *("-p", f"address=str:{stack.addresses.decoder}"),
                *("-p", f"embedding=str:{stack.addresses.embedding}"),
                *("-p", "model=str:nano"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=CAP,
            env={
                **os.environ,
                "CVAT_ACCESS_TOKEN": "a-token",
                "NO_PROXY": "127.0.0.1",
                "PYTHONPATH": str(SERVICES),
            },
        )
    assert done.returncode == 0, done.stderr
    assert not server.failures, done.stderr


def decode(python: Path, points: list[list[float]]) -> list[np.ndarray]:
    """Decode masks with cvat-sdk."""
    done = subprocess.run(
        [str(python), "-c", DECODE],
        input=json.dumps([points, WIDTH, HEIGHT]),
        capture_output=True,
        text=True,
        check=True,
    )
    masks = []
    for indices in json.loads(done.stdout):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        rows, columns = np.array(indices, int).reshape(2, -1)
        mask[rows, columns] = True
        masks.append(mask)
    return masks


def test_every_click_and_box_is_answered_with_the_best_mask(
    cvat: CvatServer, cvat_python: Path, client: Client, coins: Path
) -> None:
    shapes = [cvat.results[f"request-{index}"]["shapes"] for index in range(len(REQUESTS))]
    assert [[shape["type"] for shape in each] for each in shapes] == [["mask"]] * len(REQUESTS)
    found = decode(cvat_python, [each[0]["points"] for each in shapes])
    expected = client.predict(coins, PROMPTS).results
    for mask, (shape,), masks in zip(found, shapes, expected, strict=True):
        assert np.array_equal(mask, masks[0].array())
        assert shape["attributes"] == [{"spec_id": 0, "value": f"{masks[0].predicted_iou:.3f}"}]


def test_the_frame_is_fetched_once_for_all_clicks(cvat: CvatServer) -> None:
    assert cvat.frames_fetched == 1


@pytest.mark.parametrize("kind", ["mask", "polygon"])
def test_a_task_is_annotated_with_everything_in_its_frames(
    stack: Stack, cvat_python: Path, client: Client, coins: Path, kind: str
) -> None:
    server = CvatServer(coins.read_bytes(), (WIDTH, HEIGHT), [])
    options = [
        "-p",
        "everything=bool:true",
        "-p",
        f"points_per_side=int:{POINTS}",
        "--conf-threshold=0.5",
    ]
    options += ["--conv-mask-to-poly"] if kind == "polygon" else []
    run(cvat_python, server, stack, "task", "auto-annotate", str(TASK), *options)

    # The function sends the frame as PNG; the same pixels have the same masks.
    grid = GridOptions(points_per_side=POINTS, pred_iou_thresh=0.5)
    everything = client.using(timeout=CAP).generate_masks(coins, grid)
    expected = [record.mask.array() for record in everything.records]
    assert expected
    assert {shape["type"] for shape in server.annotations} == {kind}
    assert {shape["label_id"] for shape in server.annotations} == {LABEL}
    if kind == "mask":
        found = decode(cvat_python, [shape["points"] for shape in server.annotations])
        assert len(found) == len(expected)
        for mask, other in zip(found, expected, strict=True):
            assert np.array_equal(mask, other)
    else:
        assert len(server.annotations) >= len(expected)
        assert all(len(shape["points"]) >= 6 for shape in server.annotations)
