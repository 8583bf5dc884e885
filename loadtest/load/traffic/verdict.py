"""The figures of a run, and whether they are as they must be. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from loadtest.load.traffic.samples import (
    ALONE,
    BARE,
    BESIDE,
    CLICK,
    FIGURES,
    NEW,
    PROBE,
    Sample,
    errors,
    good,
    of_kinds,
    percentiles,
    recovery,
    refusals,
)
from loadtest.load.traffic.scenario import Scenario

LEAST, MOST = "least", "most"


@dataclass(frozen=True, slots=True)
class Judged:
    """One threshold beside its figure; figure None: the run has none, which no threshold allows."""

    name: str
    figure: float | None
    side: str
    bound: float

    @property
    def holds(self) -> bool:
        if self.figure is None:
            return False
        return self.figure >= self.bound if self.side == LEAST else self.figure <= self.bound

    def __str__(self) -> str:
        figure = "not measured" if self.figure is None else f"{self.figure:.4g}"
        return f"{'holds' if self.holds else 'FAILS'}  {self.name}: {figure}, at {self.side} {self.bound:g}"


def figures(
    samples: Sequence[Sample], scenario: Scenario, ceiling: float | None = None
) -> dict[str, float | None]:
    """What thresholds speak of. ceiling: the most clicks a second that are answered, if that has been measured.

    clicks_per_second, goodput: of the clicks that were to start in the judged part of the load, those answered, and
    those answered within the scenario's patience. decode_ms: the bare decode, the median of clicks made one at a time,
    by one thread if there was a decoder of one; alone_decode_ms: by as many threads as the decoders have.
    late_p99_ms: how late the generator itself started its calls; a large one means that it was too slow for the load.
    """
    seconds = scenario.seconds - scenario.settling
    judged = [
        s
        for s in samples
        if scenario.settling <= s.intended < scenario.seconds and s.kind not in BESIDE
    ]
    clicks, alone = of_kinds(judged, CLICK), of_kinds(samples, [ALONE])
    refused = refusals(judged)
    goodput = len(good(clicks, scenario.patience)) / seconds
    alone_decode = float(np.median([s.decode for s in alone])) if alone else None
    bare = of_kinds(samples, [BARE])
    decode = float(np.median([s.decode for s in bare])) if bare else alone_decode
    normal = percentiles(alone).get("p50")
    taken = percentiles(clicks)
    return {
        "offered_per_second": len(clicks) / seconds,
        "clicks_per_second": sum(s.answered for s in clicks) / seconds,
        "goodput": goodput,
        "goodput_share": len(good(clicks, scenario.patience)) / len(clicks) if clicks else None,
        "goodput_over_ceiling": goodput / ceiling if ceiling else None,
        "errors": float(errors(judged)),
        "refused": float(len(refused)),
        "refused_without_retry_info": float(sum(not s.told_when for s in refused)),
        "decode_ms": decode,
        "alone_decode_ms": alone_decode,
        "alone_ms": normal,
        **{f"click_{name}_ms": taken.get(name) for name in FIGURES},
        "click_p99_over_decode": taken["p99"] / decode if taken and decode else None,
        "new_p50_ms": percentiles(of_kinds(judged, [NEW])).get("p50"),
        "recovery_seconds": None
        if normal is None
        else recovery(of_kinds(samples, [PROBE]), scenario.seconds, normal),
        "late_p99_ms": float(np.percentile([1000 * (s.started - s.intended) for s in clicks], 99))
        if clicks
        else None,
    }


def judge(
    figures: Mapping[str, float | None], thresholds: Mapping[str, Mapping[str, float]]
) -> list[Judged]:
    """Raises ValueError for a threshold of a name that no run has, or without a bound."""
    judged = []
    for name, bounds in thresholds.items():
        if name not in figures:
            raise ValueError(f"no run has a figure {name!r}; there are: {', '.join(figures)}")
        if not bounds or set(bounds) - {LEAST, MOST}:
            raise ValueError(f"{name} must have a bound, {LEAST} or {MOST}")
        judged += [
            Judged(name, figures[name], side, float(bound)) for side, bound in bounds.items()
        ]
    return judged


def read_thresholds(file: Path, section: str) -> dict[str, dict[str, float]]:
    """One section of thresholds.yaml. Raises ValueError if there is none of that name."""
    sections: dict[str, Any] = yaml.safe_load(file.read_text())
    if section not in sections:
        raise ValueError(f"{file} has no section {section!r}; it has: {', '.join(sections)}")
    found: dict[str, dict[str, float]] = sections[section]
    return found
