"""The HTML report of a run: one file with its plots inside. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import numpy as np

from loadtest.load.traffic.plots import bars, lines
from loadtest.load.traffic.samples import (
    BESIDE,
    CLICK,
    FIRST,
    NEW,
    REFINE,
    Sample,
    good,
    of_kinds,
    per_second,
)
from loadtest.load.traffic.scenario import Scenario
from loadtest.load.traffic.verdict import ThresholdResult

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
body {
  font: 15px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328;
}
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border: 1px solid #d0d7de; padding: .2rem .6rem; text-align: left }
svg { width: 100%; font: 11px system-ui, sans-serif; margin: .6rem 0 }
.holds { color: #1a7f37 } .fails { color: #d1242f }
</style></head><body>
<h1>$title</h1>
<p class="$class_">$verdict</p>
$body
</body></html>
""")


def page(
    title: str,
    scenario: Scenario,
    samples: Sequence[Sample],
    summary: Mapping[str, Any],
    results: list[ThresholdResult],
) -> str:
    """Render the report: the verdict, plots, figures, status codes and the scenario."""
    holds = all(result.holds for result in results)
    failed = "; ".join(result.name for result in results if not result.holds)

    figures = [[name, _number(value)] for name, value in summary["figures"].items()]
    outcomes = [
        [kind, code, calls]
        for kind, codes in summary["codes"].items()
        for code, calls in codes.items()
    ]
    cores = [[name, f"{share:.2f}"] for name, share in summary["cores"].items()]

    body = [
        _table(["threshold", "figure", "bound", ""], [_row(result) for result in results]),
        latency_over_time(samples, scenario),
        throughput(samples, scenario),
        refusals_by_code(samples, scenario),
        histogram(samples),
        "<h2>Figures</h2>",
        _table(["figure", "value"], figures),
        "<h2>Status codes</h2>",
        _table(["kind", "code", "calls"], outcomes),
        "<h2>Cores in use</h2>",
        _table(["process", "cores"], cores),
        "<h2>Scenario</h2>",
        _table(["parameter", "value"], [list(item) for item in summary["scenario"].items()]),
        _table(["machine", ""], [list(item) for item in summary["machine"].items()]),
    ]

    return _PAGE.substitute(
        title=escape(title),
        class_="holds" if holds else "fails",
        verdict="Every threshold holds." if holds else f"Failed: {escape(failed)}.",
        body="\n".join(body),
    )


def latency_over_time(samples: Sequence[Sample], scenario: Scenario) -> str:
    """Plot latency percentiles of clicks by the second they were to start in."""
    seconds = np.arange(int(np.ceil(scenario.seconds)))
    groups: list[list[float]] = [[] for _ in seconds]
    for click in of_kinds(samples, CLICK):
        if click.answered and 0 <= click.intended < len(groups):
            groups[int(click.intended)].append(click.latency)

    series = {
        f"p{p}": [float(np.percentile(group, p)) if group else np.nan for group in groups]
        for p in (50, 95, 99)
    }
    label = "ms from the intended start"
    return lines("Latency of clicks", "seconds", label, seconds + 0.5, series)


def throughput(samples: Sequence[Sample], scenario: Scenario) -> str:
    """Plot offered and answered clicks for each second."""
    clicks = of_kinds(samples, CLICK)
    answered = [sample for sample in clicks if sample.answered]
    bins = np.arange(int(np.ceil(scenario.seconds)) + 1)
    offered = np.histogram([sample.intended for sample in clicks], bins)[0]

    series = {
        "offered": offered.astype(np.float64),
        "answered": per_second(answered, scenario.seconds),
        "in time": per_second(good(clicks, scenario.patience), scenario.seconds),
    }
    return lines("Throughput of clicks", "seconds", "per second", bins[:-1] + 0.5, series)


def refusals_by_code(samples: Sequence[Sample], scenario: Scenario) -> str:
    """Plot failed calls by gRPC status code."""
    failed = [sample for sample in samples if not sample.answered and sample.kind not in BESIDE]
    codes = sorted({sample.code for sample in failed}) or ["none"]

    series = {
        code: per_second([sample for sample in failed if sample.code == code], scenario.seconds)
        for code in codes
    }
    x = np.arange(int(np.ceil(scenario.seconds))) + 0.5
    return lines("Refused or failed", "seconds", "per second", x, series)


def histogram(samples: Sequence[Sample]) -> str:
    """Plot the distribution of click latencies, up to their 99.5th percentile."""
    latencies = {
        kind: [sample.latency for sample in samples if sample.kind == kind and sample.answered]
        for kind in (FIRST, REFINE, NEW)
    }
    together = [value for values in latencies.values() for value in values] or [1.0]
    edges = np.linspace(0, float(np.percentile(together, 99.5)), 61)

    series = {
        kind: np.histogram(values, edges)[0].astype(np.float64)
        for kind, values in latencies.items()
        if values
    }
    return bars("Click latency distribution", "ms", "clicks", edges, series)


def _row(result: ThresholdResult) -> list[Any]:
    bound = f"{result.side} {result.bound:g}"
    return [result.name, _number(result.figure), bound, "holds" if result.holds else "FAILS"]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _table(head: list[str], rows: Sequence[Sequence[Any]]) -> str:
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{titles}</tr>{body}</table>"
