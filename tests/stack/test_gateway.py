"""The gateway in the running stack: the answers of gRPC, and requests made from its OpenAPI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from samserve.client import Click, Client
from samserve.local.stack import Stack
from stacks import CAP, Encodes, Photos, metrics_of

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
EXAMPLES = 25  # of each operation


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_requests_made_from_the_description_get_answers_that_it_allows(
    stack: Stack, tmp_path: Path
) -> None:
    url = f"{stack.addresses.gateway}/openapi.json"
    command = [Path(sys.executable).parent / "schemathesis", "run", url, "--seed", "1"]
    command += ["--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", str(EXAMPLES), "--request-timeout", str(CAP), "--no-color"]
    command += [
        "--exclude-path-regex",
        "everything|proposals",
    ]  # with a known image it takes minutes
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    selected, tested = re.findall(r"(?:Selected|Tested): (\d+)", done.stdout)
    assert selected.split("/")[0] == tested
    assert int(tested) >= 5


def test_a_click_over_http_is_the_click_over_grpc(
    stack: Stack, http: requests.Session, client: Client, encoded: Encodes, new_photo: Photos
) -> None:
    photo, before, url = new_photo(), encoded(), f"{stack.addresses.gateway}/v1/images"
    image = http.post(url, data=photo, timeout=CAP).json()["image_id"]
    asked = {"prompts": [{"points": [{"x": 100, "y": 80}]}]}
    answer = http.post(f"{url}/{image}/masks", json=asked, timeout=CAP).json()
    expected = client.segment(photo, [Click(100, 80)])
    assert (encoded() - before).images == 1  # one cache for both
    assert answer["cache"] == "HIT"
    counts = [mask["rle"]["counts"] for mask in answer["results"][0]["masks"]]
    assert counts == [mask.rle.decode() for mask in expected.masks]


def test_requests_are_counted_by_route_and_status(stack: Stack, http: requests.Session) -> None:
    http.get(f"{stack.addresses.gateway}/v1/models", timeout=CAP)
    metrics = metrics_of(stack.addresses.gateway_metrics)
    assert 'samserve_http_requests_total{route="/v1/models",status="200"}' in metrics
