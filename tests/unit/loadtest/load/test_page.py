"""The HTML report and its plots."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from loadtest.load.traffic.page import page
from loadtest.load.traffic.plots import bars, lines
from loadtest.load.traffic.run import Run, Target, summary_of
from loadtest.load.traffic.samples import ALONE, FIRST, REFINE, Sample
from loadtest.load.traffic.scenario import CLICKS, Scenario
from loadtest.load.traffic.verdict import figures, judge

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run() -> Run:
    scenario = Scenario(arrivals=CLICKS, rate=20, seconds=10, settling=1)
    rng = np.random.default_rng(0)
    samples = [Sample(ALONE, 0, 0, 0.01, "OK", decode=6.0)]
    for at in rng.uniform(0, 10, 200):
        code = "RESOURCE_EXHAUSTED" if rng.random() < 0.1 else "OK"
        samples.append(
            Sample(
                FIRST if rng.random() < 0.5 else REFINE,
                at,
                at,
                at + rng.exponential(0.02),
                code,
                True,
            )
        )

    values = figures(samples, scenario)
    results = judge(values, {"refused": {"most": 0}})

    return Run(scenario, samples, values, {"decoder": 0.5}, results)


def test_the_page_holds_four_plots_and_fetches_nothing(run: Run) -> None:
    html = page(
        "a <run>",
        run.scenario,
        run.samples,
        summary_of(run, Target(("a:1",), "b:1", {})),
        run.results,
    )
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    titles = [
        ElementTree.fromstring(plot).findall(f".//{SVG}text[@font-weight='bold']")[0].text
        for plot in plots
    ]

    assert titles == [
        "Latency of clicks",
        "Throughput of clicks",
        "Refused or failed",
        "Click latency distribution",
    ]
    assert not re.search(r"(src|href)=|@import|url\(", html)
    assert "a &lt;run&gt;" in html
    assert "Failed: refused." in html


def test_every_status_code_is_a_line(run: Run) -> None:
    html = page(
        "run",
        run.scenario,
        run.samples,
        summary_of(run, Target(("a:1",), "b:1", {})),
        run.results,
    )

    assert "RESOURCE_EXHAUSTED</text>" in html


def shapes(svg: str, kind: str) -> list[Any]:
    return ElementTree.fromstring(svg).findall(f".//{SVG}{kind}")


def test_a_line_breaks_at_missing_values() -> None:
    svg = lines("t", "x", "y", [0, 1, 2, 3], {"a": [1, np.nan, 2, 3]})
    assert [len(line.get("points").split()) for line in shapes(svg, "polyline")] == [1, 2]


def test_higher_values_are_drawn_higher() -> None:
    (line,) = shapes(lines("t", "x", "y", [0, 1], {"a": [1, 2]}), "polyline")
    (_, low), (_, high) = (point.split(",") for point in line.get("points").split())
    assert float(high) < float(low)


def test_a_histogram_has_a_bar_for_each_bin() -> None:
    svg = bars("t", "x", "y", [0, 1, 2, 3], {"a": [1, 0, 2]})
    legend = 1
    assert len(shapes(svg, "rect")) == 3 + legend


def test_a_plot_without_values_is_valid() -> None:
    assert not shapes(lines("t", "x", "y", [], {}), "polyline")
