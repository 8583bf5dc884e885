"""The chart's Serve config, environment and probes on a real Ray, as KubeRay uses them."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from manifests import CHART, PodOf, environment, of_kind, part, rendered
from samserve.local.process import Program, free_port, free_range

pytestmark = pytest.mark.skipif(
    not os.environ.get("CHART_RAY"), reason="set CHART_RAY=1 to run a real Ray for a minute"
)

MANIFESTS = rendered(CHART / "ci" / "default.yaml")
CLUSTER: dict[str, Any] = of_kind(MANIFESTS, "RayService")[0]["spec"]
TOKEN = secrets.token_hex(32)  # KubeRay makes one for each cluster


@dataclass(frozen=True)
class Ray:
    """A Ray cluster of one node; `ports` maps the chart's ports to its ports."""

    ports: dict[int, int]

    def ask(self, port: int, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Return the HTTP status of one of the chart's ports, 0 without an answer, and the text."""
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        headers = {"Content-Type": "application/json"}
        if body or "applications" in path:
            headers["Authorization"] = f"Bearer {TOKEN}"
        request = urllib.request.Request(url, body, headers, method="PUT" if body else "GET")
        try:
            timeout = 90 if body else 10
            with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def serves(self) -> bool:
        status, text = self.ask(8265, "/api/serve/applications/")
        assert "DEPLOY_FAILED" not in text, text
        return (
            status == 200
            and json.loads(text)["applications"].get("embedding", {}).get("status") == "RUNNING"
        )


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    # A short path, because it holds sockets.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield from _running(Path(folder), tmp_path_factory.mktemp("ray") / "ray.log")


def _running(folder: Path, log: Path) -> Iterator[Ray]:
    head, worker = part(MANIFESTS, "embedding")
    ports = {
        port["containerPort"]: free_port()
        for pod in (head, worker)
        for port in pod.containers[0]["ports"]
    }
    ports[52365] = free_port()
    (folder / "metrics").mkdir()
    settings = {
        **environment(worker.containers[0]),
        "PROMETHEUS_MULTIPROC_DIR": folder / "metrics",
        "RAY_SERVE_HAPROXY_METRICS_PORT": ports[9101],
        "RAY_SERVE_HAPROXY_STATS_PORT": free_port(),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy" / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "haproxy" / "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder / "haproxy",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "haproxy" / "server-state",
        "SAMSERVE_HOST": "127.0.0.1",
        "SAMSERVE_METRICS_PORT": ports[9464],
        "HOME": folder,
        "RAY_AUTH_MODE": CLUSTER["rayClusterConfig"]["authOptions"]["mode"],
        "RAY_AUTH_TOKEN": TOKEN,
    }
    for kind, replicas in (("HTTP", free_range(64)), ("GRPC", free_range(64))):
        settings[f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT"] = replicas.start
        settings[f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT"] = replicas.stop - 1

    options = {
        "node-ip-address": "127.0.0.1",
        "port": ports[6379],
        "dashboard-port": ports[8265],
        "dashboard-agent-listen-port": ports[52365],
        "metrics-export-port": ports[8080],
        "ray-client-server-port": free_port(),
        "object-store-memory": 100_000_000,
        "num-cpus": 4,
        "temp-dir": folder,
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    variables = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    program = Program("Ray", command, variables, log)
    running = Ray(ports)
    try:
        program.wait_ready(lambda: running.ask(8265, "/api/gcs_healthz")[0] == 200, 90)
        config = yaml.safe_load(CLUSTER["serveConfigV2"])
        config["http_options"] = {
            "host": "127.0.0.1",
            "port": ports[config["http_options"]["port"]],
        }
        config["grpc_options"]["port"] = ports[config["grpc_options"]["port"]]
        status, text = running.ask(8265, "/api/serve/applications/", json.dumps(config).encode())
        assert status == 200, text
        program.wait_ready(running.serves, 90)
        yield running
    finally:
        program.stop(60)


def probes(pod: PodOf) -> list[tuple[int, str]]:
    """Return port and path of each probe of a pod."""
    container = pod.containers[0]
    requests = [container[kind]["httpGet"] for kind in ("readinessProbe", "livenessProbe")]
    return [(pod.port(each["port"]) or each["port"], each["path"]) for each in requests]


def test_the_probes_succeed(ray: Ray) -> None:
    for pod in part(MANIFESTS, "embedding"):
        for port, path in probes(pod):
            assert ray.ask(port, path)[0] == 200, f"{port}{path}"


def test_calls_arrive_at_the_grpc_port(ray: Ray) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{ray.ports[8500]}") as channel:
        listed: bytes = channel.unary_unary("/ray.serve.RayServeAPIService/ListApplications")(
            b"", timeout=10
        )
    assert b"embedding" in listed


def test_metrics_are_served_where_the_monitor_reads_them(ray: Ray) -> None:
    for port, metric in ((9464, "samserve_"), (8080, "ray_"), (9101, "haproxy_")):
        assert re.search(rf"^{metric}", ray.ask(port, "/metrics")[1], re.MULTILINE), metric


def test_without_the_token_no_job_is_accepted(ray: Ray) -> None:
    url = f"http://127.0.0.1:{ray.ports[8265]}/api/jobs/"
    job = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(url, job, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)  # noqa: S310
    with refused.value:
        assert refused.value.code in (401, 403)
