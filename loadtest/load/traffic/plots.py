"""Plots as SVG text, to stand in a page that needs nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 40  # margins; the legend stands in the right one
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")

Values = Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Axes:
    """The ranges a plot spans; both start at 0."""

    x: float
    y: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / self.x
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(y / self.y, 1.0)


def lines(title: str, x_label: str, y_label: str, x: Values, series: Mapping[str, Values]) -> str:
    """One line a series over the same x; values that are not finite leave a gap."""
    axes = Axes(_round_up(max(x, default=1.0)), _round_up(_most(series.values())))
    drawn = []
    for (name, values), colour in zip(series.items(), _colours(len(series)), strict=True):
        for run in _runs(x, values):
            points = " ".join("{:.1f},{:.1f}".format(*axes.at(*point)) for point in run)
            drawn.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
            )
        drawn.append(_legend(name, colour, list(series).index(name)))
    return _frame(title, x_label, y_label, axes, drawn)


def bars(
    title: str, x_label: str, y_label: str, edges: Values, series: Mapping[str, Values]
) -> str:
    """Histograms with the same edges, [N + 1] for [N] values, one over the other and half transparent."""
    axes = Axes(_round_up(max(edges)), _round_up(_most(series.values())))
    drawn = []
    for (name, values), colour in zip(series.items(), _colours(len(series)), strict=True):
        for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
            (x0, y0), (x1, y1) = axes.at(left, value), axes.at(right, 0)
            place = f'x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0 - 0.5, 0.5):.1f}" height="{y1 - y0:.1f}"'
            drawn.append(f'<rect {place} fill="{colour}" fill-opacity="0.5"/>')
        drawn.append(_legend(name, colour, list(series).index(name)))
    return _frame(title, x_label, y_label, axes, drawn)


def _frame(title: str, x_label: str, y_label: str, axes: Axes, drawn: list[str]) -> str:
    grid = []
    for share in np.linspace(0, 1, 6):
        x, y = axes.at(axes.x * share, axes.y * share)
        grid.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>'
        )
        grid.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{axes.y * share:g}</text>'
        )
        grid.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{axes.x * share:g}</text>'
        )
    labels = [
        f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>',
        f'<text x="{LEFT}" y="{TOP - 5}" fill="#57606a">{escape(y_label)}</text>',
    ]
    body = "\n".join([*grid, *labels, *drawn])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">\n{body}\n</svg>'


def _legend(name: str, colour: str, row: int) -> str:
    x, y = WIDTH - RIGHT + 12, TOP + 8 + 18 * row
    return (
        f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{colour}"/>'
        f'<text x="{x + 16}" y="{y + 1}">{escape(name)}</text>'
    )


def _runs(x: Values, values: Values) -> list[list[tuple[float, float]]]:
    """The stretches of finite values."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in zip(x, values, strict=True):
        if np.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _most(series: object) -> float:
    values = np.concatenate([np.asarray(one, np.float64) for one in series] or [np.zeros(0)])  # type: ignore[attr-defined]
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 1.0


def _round_up(value: float) -> float:
    """The next number of one or two plain digits, so that fifths of it are plain too."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(
        next(
            step * power
            for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10)
            if step * power >= value * 0.9999
        )
    )


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
