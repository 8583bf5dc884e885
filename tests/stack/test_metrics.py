"""What dashboards, alerts and autoscalers ask for is what a running stack exports."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import requests
from promql import Labels, metrics_asked
from samserve.client import Click, Client
from samserve.local.stack import Stack
from stacks import CAP, metrics_of

ELSEWHERE = {
    "up": "Prometheus itself",
    "kube_deployment_status_replicas_available": "kube-state-metrics",
    "nv_gpu_utilization": "Triton on a machine with a GPU",
}
FROM_THE_OPERATOR = {"namespace", "job", "pod"}  # labels that Prometheus adds to what it reads

# Not prometheus_client's parser: it calls every counter _total, which Triton does not.
SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? ", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Exposition = dict[str, Labels]  # labels of all of a metric's samples, by its name


def read(address: str) -> Exposition:
    metrics: Exposition = {}
    for sample in SAMPLE.finditer(metrics_of(address)):
        labels = metrics.setdefault(sample["name"], {})
        for label, value in LABEL.findall(sample["labels"] or ""):
            labels.setdefault(label, set()).add(value)
    return metrics


def rays_address(stack: Stack) -> str:
    """Where this stack's Ray exports metrics."""
    folder = next((stack._run_folder / "ray").glob("session_2*"))
    (file,) = folder.glob("metrics_export_port_*")
    return f"127.0.0.1:{file.read_text()}"


def rays(stack: Stack, wanted: set[str]) -> Exposition:
    """Ray's metrics, as soon as those wanted are among them."""
    end = time.monotonic() + CAP  # Ray collects its metrics every ten seconds
    while True:
        there = read(rays_address(stack))
        if wanted <= there.keys() or time.monotonic() > end:
            return there
        time.sleep(0.5)


@pytest.fixture(scope="module")
def exported(stack: Stack, coins: Path) -> Exposition:
    """What all ports of the stack export once calls have been made."""
    with Client(stack.addresses.decoder, stack.addresses.embedding) as client:
        client.segment(coins.read_bytes(), [Click(100, 80)])
        client.embed(coins.read_bytes())
    addresses = stack.addresses
    for front in (addresses.gateway, addresses.edge):
        requests.get(f"{front}/v1/models", timeout=CAP).raise_for_status()
    ports = (
        addresses.gateway_metrics,
        addresses.edge_metrics,
        addresses.decoder_metrics,
        addresses.embedding_metrics,
        addresses.triton_metrics,
    )
    wanted = {metric for metric in metrics_asked() if metric.startswith("ray_")}
    every: Exposition = {}
    for exposition in (*map(read, ports), rays(stack, wanted)):
        for metric, labels in exposition.items():
            for label, values in labels.items():
                every.setdefault(metric, {}).setdefault(label, set()).update(values)
            every.setdefault(metric, {})
    return every


def test_every_metric_that_is_asked_for_is_exported(exported: Exposition) -> None:
    asked = metrics_asked()
    missing = asked.keys() - exported.keys() - ELSEWHERE.keys()
    assert {metric: asked[metric].askers for metric in missing} == {}


def test_metrics_have_the_labels_that_they_are_chosen_by(exported: Exposition) -> None:
    asked = metrics_asked()
    for metric in asked.keys() & exported.keys():
        assert asked[metric].labels.keys() <= exported[metric].keys() | FROM_THE_OPERATOR, metric


def test_the_names_of_stages_methods_and_replicas_are_those_that_are_asked_for(
    exported: Exposition,
) -> None:
    asked = metrics_asked()
    for metric in asked.keys() & exported.keys():
        for label in asked[metric].labels.keys() & {"stage", "method", "deployment", "Component"}:
            assert asked[metric].labels[label] <= exported[metric][label], metric


def test_what_comes_from_elsewhere_is_asked_for_and_is_not_ours(exported: Exposition) -> None:
    assert ELSEWHERE.keys() <= metrics_asked().keys()
    assert not ELSEWHERE.keys() & exported.keys()


def test_both_halves_tell_the_model_version(stack: Stack, client: Client, coins: Path) -> None:
    version = client.embed(coins.read_bytes()).model_version
    for address in (stack.addresses.decoder_metrics, stack.addresses.embedding_metrics):
        told = [
            line
            for line in metrics_of(address).splitlines()
            if line.startswith("samserve_model_info{")
        ]
        assert any(f'version="{version}"' in line and line.endswith(" 1.0") for line in told)
