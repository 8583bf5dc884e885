"""Who may call whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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
    """The rules for a pod: peers, and ports; none of either means any."""
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


def test_parts_reach_what_they_call_and_nothing_else(values: Path) -> None:
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        assert values.stem == "smallest"
        return
    by_name = {name: part(manifests, name) for name in ("decoder", "embedding", "triton", "redis")}
    calls = {("decoder", "embedding"), ("embedding", "triton"), ("embedding", "embedding")}
    calls |= {("decoder", "redis"), ("embedding", "redis")} if by_name["redis"] else set()
    port = {"embedding": "serve-grpc", "triton": "grpc", "redis": "redis", "decoder": "grpc"}
    for caller, callers in by_name.items():
        for called, those in by_name.items():
            for one in callers:
                for other in those:
                    number = other.port(port[called])
                    assert number is not None
                    reached = may_call(manifests, one, other, number)
                    assert reached == ((caller, called) in calls), f"{caller} -> {called}"


def test_nobody_else_is_let_in_but_who_is_named(values: Path) -> None:
    manifests = rendered(values)
    for pod in pods(manifests):
        rules = allowed(manifests, pod, "from")
        assert all(peers for peers, _ in rules), pod.owner
        ports = set().union(*(numbers for _, numbers in rules))
        assert all(
            pod.port(number) or pod.labels["app.kubernetes.io/component"] == "embedding"
            for number in ports
        )


def test_metrics_are_read_by_the_monitoring_alone(values: Path) -> None:
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        return
    for component, name in (
        ("decoder", "metrics"),
        ("triton", "metrics"),
        ("embedding", "app-metrics"),
    ):
        pod = part(manifests, component)[-1]
        readers = [
            peers for peers, ports in allowed(manifests, pod, "from") if pod.port(name) in ports
        ]
        assert [list(peer) for peer in readers[0]] == [["namespaceSelector"]]
        assert len(readers) == 1


def test_traces_may_leave_if_there_is_somewhere_to_send_them(values: Path) -> None:
    manifests = rendered(values)
    if not of_kind(manifests, "NetworkPolicy"):
        return
    for component in ("decoder", "embedding"):
        pod = part(manifests, component)[-1]
        endpoint = environment(pod.containers[0]).get("SAMSERVE_OTLP_ENDPOINT")
        ports = set().union(*(numbers for _, numbers in allowed(manifests, pod, "to")))
        assert (4317 in ports) == bool(endpoint) == (values.stem == "everything")
