"""The dashboards match their source, and every panel has a unit and a description."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import CHART, ROOT
from promql import DASHBOARDS, asked, metrics_asked, panels, selectors

every_board = pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)


def test_the_dashboards_match_their_source(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "helm" / "boards", tmp_path], check=True)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}

    assert written == {file.name: file.read_text() for file in (CHART / "dashboards").iterdir()}, (
        "python helm/boards"
    )


@every_board
def test_every_panel_has_a_unit_and_a_description(file: Path) -> None:
    assert len(panels(file)) > 10
    for panel in panels(file):
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert len(panel["description"]) < 140, panel["title"]


@every_board
def test_panels_do_not_overlap_and_have_unique_ids(file: Path) -> None:
    every = json.loads(file.read_text())["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in every)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert {x for x, _ in taken} == set(range(24))
    assert len({panel["id"] for panel in every}) == len(every)


@every_board
def test_every_query_selects_one_release(file: Path) -> None:
    for panel in panels(file):
        for target in panel["targets"]:
            for metric, labels in selectors(target["expr"]).items():
                assert {"namespace", "job"} <= labels.keys(), f"{panel['title']}: {metric}"


@pytest.mark.parametrize(
    "client", ["ScaledObject", "HorizontalPodAutoscaler", "prometheus-adapter"]
)
def test_the_autoscalers_queries_are_checked(client: str) -> None:
    metrics = {
        metric
        for asker, expression in asked()
        if asker == client
        for metric in selectors(expression)
    }

    assert metrics
    assert metrics <= metrics_asked().keys()


def test_invalid_promql_is_rejected() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        selectors("sum(rate(up[5m])")
