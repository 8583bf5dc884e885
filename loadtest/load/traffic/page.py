"""A run as one HTML file with its plots in it. Pure."""

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
from loadtest.load.traffic.verdict import Judged

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328 }
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
    judged: list[Judged],
) -> str:
    """The report: verdict, figures, latency over time, throughput, refusals, histogram, what was asked."""
    good_run = all(one.holds for one in judged)
    fails = "; ".join(f"{one.name}" for one in judged if not one.holds)
    body = [
        _table(["threshold", "figure", "bound", ""], [_row(one) for one in judged]),
        latency_over_time(samples, scenario),
        throughput(samples, scenario),
        refusals_by_code(samples, scenario),
        histogram(samples),
        "<h2>Figures</h2>",
        _table(
            ["figure", "value"],
            [[name, _number(value)] for name, value in summary["figures"].items()],
        ),
        "<h2>Outcomes</h2>",
        _table(
            ["kind", "code", "calls"],
            [[k, c, n] for k, row in summary["codes"].items() for c, n in row.items()],
        ),
        "<h2>Cores in use</h2>",
        _table(
            ["process", "cores"],
            [[name, f"{share:.2f}"] for name, share in summary["cores"].items()],
        ),
        "<h2>Asked</h2>",
        _table(
            ["parameter", "value"], [[name, value] for name, value in summary["scenario"].items()]
        ),
        _table(["machine", ""], [[name, value] for name, value in summary["machine"].items()]),
    ]
    return _PAGE.substitute(
        title=escape(title),
        class_="holds" if good_run else "fails",
        verdict="Every threshold holds." if good_run else f"Fails: {escape(fails)}.",
        body="\n".join(body),
    )


def latency_over_time(samples: Sequence[Sample], scenario: Scenario) -> str:
    """Percentiles of clicks by the second they were to start in."""
    clicks = [s for s in of_kinds(samples, CLICK) if s.answered]
    seconds = np.arange(int(np.ceil(scenario.seconds)))
    groups: list[list[float]] = [[] for _ in seconds]
    for click in clicks:
        if 0 <= click.intended < len(groups):
            groups[int(click.intended)].append(click.taken)
    series = {
        f"p{p}": [float(np.percentile(g, p)) if g else np.nan for g in groups] for p in (50, 95, 99)
    }
    return lines(
        "Latency of clicks", "seconds", "ms from the intended start", seconds + 0.5, series
    )


def throughput(samples: Sequence[Sample], scenario: Scenario) -> str:
    """What was asked and what was answered, second by second."""
    clicks = of_kinds(samples, CLICK)
    asked = np.histogram(
        [s.intended for s in clicks], np.arange(int(np.ceil(scenario.seconds)) + 1)
    )[0]
    series = {
        "offered": asked.astype(np.float64),
        "answered": per_second([s for s in clicks if s.answered], scenario.seconds),
        "in good time": per_second(good(clicks, scenario.patience), scenario.seconds),
    }
    return lines("Throughput of clicks", "seconds", "a second", np.arange(len(asked)) + 0.5, series)


def refusals_by_code(samples: Sequence[Sample], scenario: Scenario) -> str:
    """Calls not answered, by gRPC code."""
    failed = [s for s in samples if not s.answered and s.kind not in BESIDE]
    found = sorted({s.code for s in failed}) or ["none"]
    series = {
        code: per_second([s for s in failed if s.code == code], scenario.seconds) for code in found
    }
    x = np.arange(int(np.ceil(scenario.seconds))) + 0.5
    return lines("Refused or failed", "seconds", "a second", x, series)


def histogram(samples: Sequence[Sample]) -> str:
    """How long clicks took, up to their 99.5th percentile."""
    taken = {
        kind: [s.taken for s in samples if s.kind == kind and s.answered]
        for kind in (FIRST, REFINE, NEW)
    }
    everything = [value for values in taken.values() for value in values] or [1.0]
    edges = np.linspace(0, float(np.percentile(everything, 99.5)), 61)
    series = {
        kind: np.histogram(values, edges)[0].astype(np.float64)
        for kind, values in taken.items()
        if values
    }
    return bars("How long clicks took", "ms", "clicks", edges, series)


def _row(one: Judged) -> list[Any]:
    return [
        one.name,
        _number(one.figure),
        f"{one.side} {one.bound:g}",
        "holds" if one.holds else "FAILS",
    ]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _table(head: list[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        "<table><tr>"
        + "".join(f"<th>{escape(name)}</th>" for name in head)
        + f"</tr>{cells}</table>"
    )
