"""The network policies: which part may call which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import (
    VALUE_FILES,
    Manifest,
    PodOf,
    environment,
    of_kind,
    part,
    pods,
    rendered,
    selects,
)

pytestmark = pytest.mark.parametrize("values", VALUE_FILES, ids=lambda file: file.stem)


def allowed(
    manifests: list[Manifest], pod: PodOf, direction: str
) -> list[tuple[list[dict[str, Any]], set[int]]]:
    """Return the rules of a pod as peers and ports; an empty list or set means any."""
    return [
        (rule.get(direction, []), {port["port"] for port in rule.get("ports", [])})
        for policy in of_kind(manifests, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"].get("matchLabels", {}), pod.labels)
        for rule in policy["spec"].get("ingress" if direction == "from" else "egress", [])
    ]


def may_call(manifests: list[Manifest], caller: PodOf, called: PodOf, port: int) -> bool:
    def admits(rules: list[tuple[list[dict[str, Any]], set[int]]], other: PodOf) -> bool:
        return any(
            (not ports or port in ports)
            and any(
                "namespaceSelector" not in peer
                and selects(peer["podSelector"].get("matchLabels", {}), other.labels)
                for peer in peers
                if "podSelector" in peer
            )
            for peers, ports in rules
        )

    return admits(allowed(manifests, caller, "to"), called) and admits(
        allowed(manifests, called, "from"), caller
    )


def test_parts_reach_the_parts_they_call_and_no_others(values: Path) -> None:
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        assert values.stem == "smallest"
        return

    names = ("edge", "gateway", "decoder", "embedding", "triton", "redis")
    by_name = {name: part(manifests, name) for name in names}
    calls = {("decoder", "embedding"), ("embedding", "triton"), ("embedding", "embedding")}
    calls |= {("gateway", "decoder"), ("gateway", "embedding")}
    calls |= {("edge", "decoder"), ("edge", "embedding"), ("edge", "gateway")}
    calls |= {("decoder", "redis"), ("embedding", "redis")} if by_name["redis"] else set()
    port = {"embedding": "serve-grpc", "triton": "grpc", "redis": "redis", "decoder": "grpc"}
    port |= {"gateway": "http", "edge": "public"}
    for caller, callers in by_name.items():
        for called, targets in by_name.items():
            for source in callers:
                for destination in targets:
                    number = destination.port(port[called])
                    assert number is not None
                    reached = may_call(manifests, source, destination, number)
                    assert reached == ((caller, called) in calls), f"{caller} -> {called}"


def test_ingress_always_names_its_peers(values: Path) -> None:
    manifests = rendered(values)
    for pod in pods(manifests):
        rules = allowed(manifests, pod, "from")
        assert all(peers for peers, _ in rules), pod.owner
        ports = set().union(*(numbers for _, numbers in rules))
        assert all(
            pod.port(number) or pod.labels["app.kubernetes.io/component"] == "embedding"
            for number in ports
        )


def test_only_the_monitoring_can_read_metrics(values: Path) -> None:
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        return

    for component, name in (
        ("decoder", "metrics"),
        ("triton", "metrics"),
        ("embedding", "app-metrics"),
        ("gateway", "metrics"),
    ):
        for pod in part(manifests, component)[-1:]:
            readers = [
                peers for peers, ports in allowed(manifests, pod, "from") if pod.port(name) in ports
            ]
            assert [list(peer) for peer in readers[0]] == [["namespaceSelector"]]
            assert len(readers) == 1


def test_traces_can_leave_if_an_endpoint_is_set(values: Path) -> None:
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        return

    for component in ("gateway", "decoder", "embedding"):
        for pod in part(manifests, component)[-1:]:
            endpoint = environment(pod.containers[0]).get("SAMSERVE_OTLP_ENDPOINT")
            ports = set().union(*(numbers for _, numbers in allowed(manifests, pod, "to")))
            assert (4317 in ports) == bool(endpoint) == (values.stem == "everything")


def test_only_the_operator_of_one_namespace_reaches_rays_dashboard(values: Path) -> None:
    """A caller of the dashboard may submit jobs, which are code."""
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        return

    head, worker = part(manifests, "embedding")
    dashboard = head.port("dashboard")
    readers = [peers for peers, ports in allowed(manifests, head, "from") if dashboard in ports]
    assert len(readers) == 1
    for peer in readers[0]:
        assert peer["namespaceSelector"]["matchLabels"]
        assert peer["podSelector"]["matchLabels"]

    assert all(dashboard not in ports for _, ports in allowed(manifests, worker, "from"))


def test_clients_reach_the_ports_of_calls_only(values: Path) -> None:
    manifests = rendered(values)
    calls = (("gateway", "http"), ("decoder", "grpc"), ("embedding", "serve-grpc"))
    for component, name in calls:
        for pod in part(manifests, component):
            for peers, ports in allowed(manifests, pod, "from"):
                labels = [
                    peer.get("podSelector", {}).get("matchLabels", {})
                    for peer in peers
                    if "namespaceSelector" not in peer
                ]
                is_own = any("app.kubernetes.io/part-of" in each for each in labels)
                if labels and not is_own:
                    assert ports == {pod.port(name)}, pod.owner


def test_traffic_leaves_only_where_it_is_used(values: Path) -> None:
    """Name lookups go to name servers; the API server is for the head, downloads for Triton.

    The gateway fetches images from the peers that the values name, and from nowhere else.
    """
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        return

    given = yaml.safe_load(values.read_text()) or {}
    models = given.get("models", [{"pull": True}])
    for pod in pods(manifests):
        rules = allowed(manifests, pod, "to")
        assert all(peers for peers, ports in rules if 53 in ports), pod.owner

        elsewhere: set[int] = set()
        for peers, ports in rules:
            elsewhere |= ports if not peers or any("ipBlock" in each for each in peers) else set()
        component = pod.labels["app.kubernetes.io/component"]
        if pod.labels.get("samserve-ray") == "head":
            assert elsewhere >= {443, 6443}
        elif component == "triton":
            download = set(given.get("networkPolicy", {}).get("downloadPorts", [443]))
            assert elsewhere == (download if any(model["pull"] for model in models) else set())
        elif component == "gateway":
            network = given.get("networkPolicy", {})
            images = network.get("imageHostPorts", [443]) if network.get("imageHosts") else []
            collector = {4317} if values.stem == "everything" else set()
            assert elsewhere == {*images, *collector}
        else:
            assert not elsewhere & {443, 6443}, pod.owner
