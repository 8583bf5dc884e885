"""Each alert fires for its own trouble, and none fires on a healthy system.

Prometheus' promtool evaluates the rules.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import CHART

RULES = CHART / "alerts" / "samserve.yaml"
Trouble = dict[str, tuple[float, float] | None]
PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool not found; Debian's package prometheus has it"
)

MINUTES = 60  # duration of the trouble
DAY = 24 * 60
WELL = {"SamserveCacheMisses": DAY}  # healthy minutes before the trouble, if not MINUTES
DECODER, EMBEDDING = (
    'namespace="v",job="s-decoder",pod="d"',
    'namespace="v",job="v/s-embedding",pod="e"',
)
TRITON = 'namespace="v",job="s-triton",pod="t",model="nano"'
GATEWAY = 'namespace="v",job="v/s-gateway",pod="g"'
EDGE = 'namespace="v",job="v/s-edge",pod="p"'
KUBE = 'namespace="v",deployment="s-triton"'
RAY = f'{EMBEDDING},deployment="EmbeddingService"'


def info(labels: str, version: str = "nano-1") -> str:
    return f'samserve_model_info{{{labels},model="nano",version="{version}"}}'


def requests(labels: str, method: str, code: str) -> str:
    return f'samserve_requests_total{{{labels},method="{method}",code="{code}"}}'


def outcomes(labels: str, outcome: str) -> str:
    return f'samserve_cache_outcomes_total{{{labels},outcome="{outcome}"}}'


def clicks_within(seconds: str) -> str:
    return f'samserve_request_seconds_bucket{{{DECODER},method="Predict",le="{seconds}"}}'


def queued_within(seconds: str) -> str:
    return f'samserve_stage_seconds_bucket{{{EMBEDDING},stage="queue",le="{seconds}"}}'


def http_requests(route: str, status: str) -> str:
    return f'samserve_http_requests_total{{{GATEWAY},route="{route}",status="{status}"}}'


def http_within(route: str, seconds: str) -> str:
    return f'samserve_http_request_seconds_bucket{{{GATEWAY},route="{route}",le="{seconds}"}}'


def lookups(outcome: str) -> str:
    return f'samserve_resident_lookups_total{{{DECODER},outcome="{outcome}"}}'


MASKS, IMAGES = "/v1/images/{image_id}/masks", "/v1/images"
HTTP_IN_PROGRESS = f"samserve_http_requests_in_progress{{{GATEWAY}}}"
HEAP = f"envoy_overload_envoy_resource_monitors_fixed_heap_pressure{{{EDGE}}}"
OVERFLOW = f"envoy_listener_downstream_global_cx_overflow{{{EDGE}}}"
HEALTHY_HOSTS = f'envoy_cluster_membership_healthy{{{EDGE},envoy_cluster_name="decoder"}}'
HOSTS = f'envoy_cluster_membership_total{{{EDGE},envoy_cluster_name="decoder"}}'
DAYS = f"envoy_server_days_until_first_cert_expiring{{{EDGE}}}"
EVICTIONS = f"samserve_resident_evictions_total{{{DECODER}}}"
WAITING = f"samserve_decode_waiting{{{DECODER}}}"
QUEUED = f"nv_inference_queue_duration_us{{{TRITON}}}"
TRITONS = f"kube_deployment_status_replicas_available{{{KUBE}}}"
REPLICAS = f"ray_serve_deployment_replica_healthy{{{RAY}}}"

# Initial value of each series, and its growth per minute; gauges do not grow.
HEALTHY: dict[str, tuple[float, float]] = {
    f"up{{{DECODER}}}": (1, 0),
    f"up{{{EMBEDDING}}}": (1, 0),
    f"up{{{TRITON}}}": (1, 0),
    f"up{{{GATEWAY}}}": (1, 0),
    f"up{{{EDGE}}}": (1, 0),
    HEAP: (40, 0),
    OVERFLOW: (0, 0),
    HEALTHY_HOSTS: (3, 0),
    HOSTS: (4, 0),
    DAYS: (60, 0),
    info(DECODER): (1, 0),
    info(EMBEDDING): (1, 0),
    info(EMBEDDING, "nano-0"): (0, 0),  # the version before
    requests(DECODER, "Predict", "OK"): (0, 6000),
    requests(DECODER, "Predict", "INTERNAL"): (0, 1),
    requests(DECODER, "Predict", "RESOURCE_EXHAUSTED"): (0, 1),
    requests(DECODER, "Interact", "UNAVAILABLE"): (
        0,
        1,
    ),  # every such call fails, but there are few
    requests(EMBEDDING, "Embed", "OK"): (0, 60),
    requests(EMBEDDING, "Embed", "NOT_FOUND"): (0, 60),  # the client then sends the bytes
    requests(EMBEDDING, "Embed", "RESOURCE_EXHAUSTED"): (0, 0),
    clicks_within("0.1"): (0, 5000),
    clicks_within("0.5"): (0, 5990),
    clicks_within("5"): (0, 6000),
    clicks_within("+Inf"): (0, 6000),
    queued_within("1"): (0, 58),
    queued_within("10"): (0, 60),
    queued_within("+Inf"): (0, 60),
    http_requests(MASKS, "200"): (0, 6000),
    http_requests(MASKS, "503"): (0, 1),
    http_requests(IMAGES, "404"): (0, 60),  # the caller then sends the bytes
    http_requests("/readyz", "503"): (0, 12),
    http_requests("/sam3/concept_segment", "501"): (0, 60),  # not implemented
    http_requests("unknown", "500"): (0, 1),  # every one fails, but there are few
    http_within(MASKS, "2"): (0, 5990),
    http_within(MASKS, "10"): (0, 6000),
    http_within(MASKS, "+Inf"): (0, 6000),
    http_within(IMAGES, "2"): (0, 30),  # slow uploads
    http_within(IMAGES, "30"): (0, 60),
    http_within(IMAGES, "+Inf"): (0, 60),
    HTTP_IN_PROGRESS: (20, 0),
    WAITING: (1, 0),
    QUEUED: (0, 60 * 50_000),
    f"nv_inference_request_success{{{TRITON}}}": (0, 60),
    TRITONS: (1, 0),
    REPLICAS: (2, 0),
    f"ray_serve_autoscaling_target_replicas{{{RAY}}}": (2, 0),
    outcomes(DECODER, "hit"): (0, 900),
    outcomes(DECODER, "miss"): (0, 100),
    outcomes(DECODER, "error"): (0, 1),
    outcomes(DECODER, "bypassed"): (0, 0),
    lookups("hit"): (0, 5900),
    lookups("miss"): (0, 100),
    EVICTIONS: (0, 100),  # a full cache evicts
}

# The trouble of each alert: new value and growth of a series, or None if it ends.
TROUBLE: dict[str, Trouble] = {
    "SamserveErrors": {requests(DECODER, "Predict", "INTERNAL"): (0, 300)},
    "SamserveClickSlow": {clicks_within("0.5"): (0, 5900)},
    "SamserveRefuses": {requests(EMBEDDING, "Embed", "RESOURCE_EXHAUSTED"): (0, 6)},
    "SamserveHttpErrors": {http_requests(MASKS, "503"): (0, 300)},
    "SamserveHttpSlow": {http_within(MASKS, "2"): (0, 5600)},
    "SamserveGatewaySaturated": {HTTP_IN_PROGRESS: (200, 0)},
    "SamserveEdgeFull": {OVERFLOW: (0, 600)},
    "SamserveEdgeHostsMissing": {HEALTHY_HOSTS: (1, 0)},
    "SamserveCertificateExpires": {DAYS: (7, 0)},
    "SamserveDecoderSaturated": {WAITING: (20, 0)},
    "SamserveEmbeddingQueueOld": {queued_within("1"): (0, 20)},
    "SamserveEncoderQueueOld": {QUEUED: (0, 60 * 3_000_000)},
    "SamserveTritonDown": {TRITONS: (0, 0)},
    "SamserveModelNotReady": {info(EMBEDDING): (0, 0)},
    "SamserveReplicasMissing": {REPLICAS: (1, 0)},
    "SamserveVersionMismatch": {info(EMBEDDING): (0, 0), info(EMBEDDING, "nano-2"): (1, 0)},
    "SamserveTargetDown": {f"up{{{TRITON}}}": (0, 0)},
    "SamserveNoMetrics": {f"up{{{TRITON}}}": None},
    "SamserveRedisAway": {outcomes(DECODER, "bypassed"): (0, 500)},
    "SamserveCacheMisses": {
        outcomes(DECODER, "hit"): (0, 200),
        outcomes(DECODER, "miss"): (0, 800),
    },
    "SamserveEvictionsThrash": {
        lookups("hit"): (0, 1000),
        lookups("miss"): (0, 5000),
        EVICTIONS: (0, 5000),
    },
}


def values(series: str, trouble: Trouble, well: int) -> str:
    """Return a series in promtool's notation: `well` healthy minutes, then the trouble.

    Counters continue from their last value.
    """
    value, growth = HEALTHY.get(series, (0.0, 0.0))
    before = f"{value}+{growth}x{well}" if series in HEALTHY else f"_x{well}"
    after = trouble.get(series, (value, growth))
    if after is None:
        return before

    start, new_growth = after
    reached = growth * well if growth else start

    return f"{before} {reached + new_growth}+{new_growth}x{MINUTES}"


def firing(trouble: Trouble, well: int, expected: list[str], folder: Path) -> str:
    """Return promtool's complaint unless exactly `expected` fires at the end; empty if it does."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in expected]
    query = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{well + MINUTES}m",
        "exp_samples": samples,
    }
    series = [
        {"series": each, "values": values(each, trouble, well)} for each in {**HEALTHY, **trouble}
    ]
    case: dict[str, Any] = {"interval": "1m", "input_series": series, "promql_expr_test": [query]}
    file = folder / "case.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]})
    )
    process = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )

    return "" if process.returncode == 0 else process.stdout + process.stderr


@with_promtool
def test_prometheus_accepts_the_rules() -> None:
    subprocess.run([str(PROMTOOL), "check", "rules", str(RULES)], check=True, capture_output=True)


@with_promtool
def test_nothing_fires_on_a_healthy_system(tmp_path: Path) -> None:
    assert firing({}, DAY, [], tmp_path) == ""


@with_promtool
@pytest.mark.parametrize("alert", TROUBLE)
def test_each_alert_fires_alone_on_its_trouble(alert: str, tmp_path: Path) -> None:
    assert firing(TROUBLE[alert], WELL.get(alert, MINUTES), [alert], tmp_path) == ""


def test_every_alert_has_a_trouble_and_a_runbook() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]

    assert {rule["alert"] for rule in alerts} == TROUBLE.keys()
    for rule in alerts:
        assert rule["annotations"].keys() == {"summary", "means", "look", "do"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "warn"), rule["alert"]
