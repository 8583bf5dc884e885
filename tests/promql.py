"""Which metrics the chart asks Prometheus for, and where: read by a parser of PromQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from manifests import CHART, found, of_kind, rendered

Labels = dict[
    str, set[str]
]  # values by the name; of a selector only those that it wants to be equal

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
RULES = sorted((CHART / "alerts").glob("*.yaml"))
EVERYTHING, ADAPTER = CHART / "ci" / "everything.yaml", CHART / "ci" / "adapter.yaml"


def selectors(expression: str) -> dict[str, Labels]:
    """Return the metrics of an expression, each with its label matchers.

    Raises:
        ValueError: The expression is invalid PromQL.
    """
    metrics: dict[str, Labels] = {}

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            labels = metrics.setdefault(node.name or "", {})
            for matcher in node.matchers.matchers:
                exact = {matcher.value} if matcher.op == promql_parser.MatchOp.Equal else set()
                labels.setdefault(matcher.name, set()).update(exact)
        return True

    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "5m")), visit)
    return metrics


def panels(file: Path) -> list[dict[str, Any]]:
    """A dashboard's panels, without the rows' titles."""
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def asked() -> Iterator[tuple[str, str]]:
    """Every expression of dashboards, rules and autoscalers, and who asks it."""
    for file in DASHBOARDS:
        for panel in panels(file):
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]
    for file in RULES:
        for rule in found(yaml.safe_load(file.read_text()), "rules"):
            for each in rule:
                yield f"{file.name}: {each.get('alert') or each.get('record')}", each["expr"]
    yield from autoscalers()


def autoscalers() -> Iterator[tuple[str, str]]:
    for scaler in of_kind(rendered(EVERYTHING), "ScaledObject"):
        for query in found(scaler, "query"):
            yield "ScaledObject", query
    for scaler in of_kind(rendered(EVERYTHING), "HorizontalPodAutoscaler"):
        for pods in found(scaler, "pods"):
            yield "HorizontalPodAutoscaler", pods["metric"]["name"]
    (config,) = [
        each["data"]["config.yaml"]
        for each in of_kind(rendered(ADAPTER), "ConfigMap")
        if each["metadata"]["name"].endswith("-adapter-rules")
    ]
    for rule in found(yaml.safe_load(config), "seriesQuery"):
        yield "prometheus-adapter", rule
    for rule in yaml.safe_load(config)["externalRules"]:
        yield "prometheus-adapter", rule["metricsQuery"]


def recorded() -> set[str]:
    """The names that our own rules give."""
    return {name for file in RULES for name in found(yaml.safe_load(file.read_text()), "record")}


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a metric, and the labels that it is chosen by."""

    askers: set[str]
    labels: Labels


@cache
def metrics_asked() -> dict[str, Asked]:
    """What is asked for each metric, by its name."""
    metrics: dict[str, Asked] = {}
    ours = recorded()
    for who, expression in asked():
        for metric, labels in selectors(expression).items():
            if metric not in ours:
                known = metrics.setdefault(metric, Asked(set(), {}))
                known.askers.add(who)
                for label, values in labels.items():
                    known.labels.setdefault(label, set()).update(values)
    return metrics
