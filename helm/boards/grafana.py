"""The JSON model of Grafana dashboards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

WIDE, WIDTH, HEIGHT = 24, 8, 8  # of the grid; of a panel


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: The heading.
        description: The help text.
        unit: Grafana's name of the unit.
        queries: PromQL by legend.
        kind: Grafana's type of panel.
    """

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"


Rows = dict[str, list[Panel]]  # panels by the title of their row


def drawn(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """Return the panel's JSON model."""
    table, heat = panel.kind == "table", panel.kind == "heatmap"
    how = {"instant": True, "format": "table"} if table else {"format": "heatmap"} if heat else {}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"calculate": False, "yAxis": {"unit": panel.unit}} if heat else {},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expr, "legendFormat": legend, **how}
            for at, (legend, expr) in enumerate(panel.queries.items())
        ],
        "transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
        if table
        else [],
    }


def laid_out(rows: Rows) -> Iterable[dict[str, Any]]:
    y = number = 0
    for title, panels in rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "gridPos": {"x": 0, "y": y, "w": WIDE, "h": 1},
        }
        for at, panel in enumerate(panels):
            line, x = divmod(at * WIDTH, WIDE)
            yield drawn(panel, number + 1 + at, x, y + 1 + line * HEIGHT)
        number += len(panels)
        y += 1 + HEIGHT * -(-len(panels) * WIDTH // WIDE)


def variable(name: str, query: str, regex: str = "") -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "name": name,
        "type": "query",
        "datasource": source,
        "query": query,
        "regex": regex,
        "refresh": 2,
        "sort": 1,
    }


def board(part: str, rows: Rows) -> dict[str, Any]:
    """Return a dashboard. The release is the prefix of the job names in Prometheus."""
    known = 'label_values(samserve_model_info{namespace="$namespace"}, job)'
    return {
        "uid": f"samserve-{part}",
        "title": f"samserve: {part}",
        "tags": ["samserve"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("namespace", "label_values(samserve_model_info, namespace)"),
                variable("release", known, r"/^(?:.*\/)?(.+)-(?:decoder|embedding)$/"),
            ]
        },
        "panels": list(laid_out(rows)),
    }
