"""The edge in front of the real stack: every surface at one address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from samserve.client import Click, Client
from samserve.local.stack import Stack
from stacks import CAP, metric, until

CLICK = Click(213, 193)
PREDICT = "/samserve.v1.SegmentationService/Predict"


@pytest.fixture
def edge(stack: Stack) -> str:
    return stack.addresses.edge.removeprefix("http://")


@pytest.fixture
def through(edge: str) -> Iterator[Client]:
    with Client(edge, edge, timeout=CAP) as client:
        yield client


def test_all_calls_pass_and_answer_the_same(through: Client, client: Client, coins: Path) -> None:
    assert (
        through.segment(coins, [CLICK]).masks[0].rle == client.segment(coins, [CLICK]).masks[0].rle
    )
    assert through.models() == client.models()
    assert through.embedding(coins).tensors.keys() == client.embedding(coins).tensors.keys()
    assert [result.error for result in through.embed_many([coins])] == [None]
    with through.interact(coins) as stream:
        assert stream.step([CLICK]).masks[0].rle == client.segment(coins, [CLICK]).masks[0].rle


def test_failures_keep_their_details(through: Client, client: Client) -> None:
    def problem(which: Client) -> str:
        with pytest.raises(Exception) as raised:
            which.segment(b"not an image", [CLICK])
        return f"{type(raised.value).__name__}: {raised.value}"

    assert problem(through) == problem(client)


def test_http_passes_on_the_same_port(stack: Stack, coins: Path) -> None:
    sent = httpx.post(f"{stack.addresses.edge}/v1/images", content=coins.read_bytes(), timeout=CAP)
    image = sent.raise_for_status().json()["image_id"]
    with httpx.stream(
        "POST",
        f"{stack.addresses.edge}/v1/images/{image}/everything",
        json={"points_per_side": 4},
        timeout=CAP,
    ) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert events[0] == "event: progress"
    assert events[-1] == "event: masks"


def test_pages_call_by_grpc_web(stack: Stack) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    answer = httpx.post(
        f"{stack.addresses.edge}/samserve.v1.SegmentationService/ListModels",
        headers=headers,
        content=bytes(5),
        timeout=CAP,
    )
    assert b"nano" in answer.content
    assert b"grpc-status:0" in answer.content


def test_other_services_are_not_public(edge: str) -> None:
    with grpc.insecure_channel(edge) as channel:
        for method in (
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/ray.serve.RayServeAPIService/ListApplications",
        ):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(method)(b"", timeout=CAP)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_log_tells_of_calls_and_of_no_query(stack: Stack) -> None:
    url = f"{stack.addresses.edge}/v1/models?api_key=sesame"
    httpx.get(url, headers={"authorization": "Bearer sesame"}, timeout=CAP)
    log = Path(stack.addresses.logs, "edge.log")

    def logged() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line.get("path") == "/v1/models"]

    until(logged)  # Envoy writes its log every second
    assert logged()[0]["status"] == 200
    assert "sesame" not in log.read_text()


def test_its_metrics_count_calls_and_nothing_else_of_its_admin_answers(
    stack: Stack, through: Client
) -> None:
    metrics = stack.addresses.edge_metrics
    before = metric(metrics, "envoy_cluster_upstream_rq_total", envoy_cluster_name="decoder")
    through.models()
    after = metric(metrics, "envoy_cluster_upstream_rq_total", envoy_cluster_name="decoder")
    assert after == before + 1
    for path in ("/quitquitquit", "/config_dump", "/metrics/../quitquitquit", "/stats", "/"):
        assert httpx.post(f"http://{metrics}{path}", timeout=CAP).status_code == 404
