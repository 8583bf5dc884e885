"""SVG plots for a self-contained HTML page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 40  # margins; the legend is in the right one
COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")

Values = Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Axes:
    """The upper ends of both axes; they start at 0."""

    x: float
    y: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel coordinates of a point."""
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / self.x
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(y / self.y, 1.0)


def lines(title: str, x_label: str, y_label: str, x: Values, series: Mapping[str, Values]) -> str:
    """Plot one line per series over the same x; values that are not finite leave a gap."""
    axes = Axes(_round_up(max(x, default=1.0)), _round_up(_maximum(series.values())))

    shapes = []
    for row, (name, values) in enumerate(series.items()):
        color = COLORS[row % len(COLORS)]
        for run in _runs(x, values):
            points = " ".join("{:.1f},{:.1f}".format(*axes.at(*point)) for point in run)
            shapes.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>'
            )
        shapes.append(_legend(name, color, row))

    return _frame(title, x_label, y_label, axes, shapes)


def bars(
    title: str, x_label: str, y_label: str, edges: Values, series: Mapping[str, Values]
) -> str:
    """Plot overlaid histograms with shared edges, [N + 1] for [N] values."""
    axes = Axes(_round_up(max(edges)), _round_up(_maximum(series.values())))

    shapes = []
    for row, (name, values) in enumerate(series.items()):
        color = COLORS[row % len(COLORS)]
        for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
            x0, y0 = axes.at(left, value)
            x1, y1 = axes.at(right, 0)
            width, height = max(x1 - x0 - 0.5, 0.5), y1 - y0
            shapes.append(
                f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{width:.1f}" height="{height:.1f}" '
                f'fill="{color}" fill-opacity="0.5"/>'
            )
        shapes.append(_legend(name, color, row))

    return _frame(title, x_label, y_label, axes, shapes)


def _frame(title: str, x_label: str, y_label: str, axes: Axes, shapes: list[str]) -> str:
    grid = []
    for share in np.linspace(0, 1, 6):
        x, y = axes.at(axes.x * share, axes.y * share)
        grid += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>',
            _text(LEFT - 6, f"{y + 4:.1f}", f"{axes.y * share:g}", 'text-anchor="end"'),
            _text(f"{x:.1f}", HEIGHT - BOTTOM + 16, f"{axes.x * share:g}", 'text-anchor="middle"'),
        ]

    labels = [
        _text(LEFT, 16, escape(title), 'font-weight="bold"'),
        _text(WIDTH - RIGHT, HEIGHT - 6, escape(x_label), 'text-anchor="end"'),
        _text(LEFT, TOP - 5, escape(y_label), 'fill="#57606a"'),
    ]

    body = "\n".join([*grid, *labels, *shapes])
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">\n'
        f"{body}\n</svg>"
    )


def _text(x: object, y: object, text: str, style: str) -> str:
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


def _legend(name: str, color: str, row: int) -> str:
    x, y = WIDTH - RIGHT + 12, TOP + 8 + 18 * row
    return (
        f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{color}"/>'
        f'<text x="{x + 16}" y="{y + 1}">{escape(name)}</text>'
    )


def _runs(x: Values, values: Values) -> list[list[tuple[float, float]]]:
    """Split points into runs of finite values."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in zip(x, values, strict=True):
        if np.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _maximum(series: Iterable[Values]) -> float:
    arrays = [np.asarray(values, np.float64) for values in series]
    values = np.concatenate(arrays or [np.zeros(0)])
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else 1.0


def _round_up(value: float) -> float:
    """Return the next number with one or two significant digits whose fifths are short too."""
    if value <= 0:
        return 1.0

    power = 10.0 ** np.floor(np.log10(value))
    candidates = (step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10))
    return float(next(candidate for candidate in candidates if candidate >= value * 0.9999))
