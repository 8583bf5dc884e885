"""The figures of a run and their thresholds. Pure, apart from reading the thresholds."""

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
class ThresholdResult:
    """One threshold beside its figure.

    Attributes:
        name: Name of the figure.
        figure: Its value, or None if the run did not measure it; the threshold then fails.
        side: LEAST or MOST.
        bound: The threshold.
    """

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
        verdict = "holds" if self.holds else "FAILS"
        figure = "not measured" if self.figure is None else f"{self.figure:.4g}"
        return f"{verdict}  {self.name}: {figure}, at {self.side} {self.bound:g}"


def figures(
    samples: Sequence[Sample], scenario: Scenario, ceiling: float | None = None
) -> dict[str, float | None]:
    """Compute the figures that thresholds can bound; None if not measured.

    Args:
        samples: Every call of the run.
        scenario: The load.
        ceiling: The highest rate of answered clicks, in clicks per second, if measured.

    Returns:
        Figures by name. Figures of the load cover the calls that were to start after the settling
        time. Some names need an explanation:

        - clicks_per_second: Answered clicks per second; goodput: those answered within the
          patience.
        - decode_ms: The bare decode. It is the median over single clicks, by a decoder with one
          thread if there is one.
        - alone_decode_ms: The same, with as many threads as the decoders have.
        - late_p99_ms: How late the generator started its calls. If it is large, the generator was
          too slow for the load.
    """
    seconds = scenario.seconds - scenario.settling
    judged = [
        sample
        for sample in samples
        if scenario.settling <= sample.intended < scenario.seconds and sample.kind not in BESIDE
    ]

    # Clicks under load.
    clicks = of_kinds(judged, CLICK)
    in_time = len(good(clicks, scenario.patience))
    goodput = in_time / seconds
    refused = refusals(judged)
    latency = percentiles(clicks)
    delays = [1000 * (sample.started - sample.intended) for sample in clicks]

    # Single clicks, before and after it.
    alone = of_kinds(samples, [ALONE])
    bare = of_kinds(samples, [BARE])
    alone_decode = float(np.median([sample.decode for sample in alone])) if alone else None
    decode = float(np.median([sample.decode for sample in bare])) if bare else alone_decode
    normal = percentiles(alone).get("p50")
    probes = of_kinds(samples, [PROBE])
    recovered = None if normal is None else recovery(probes, scenario.seconds, normal)

    return {
        "offered_per_second": len(clicks) / seconds,
        "clicks_per_second": sum(sample.answered for sample in clicks) / seconds,
        "goodput": goodput,
        "goodput_share": in_time / len(clicks) if clicks else None,
        "goodput_over_ceiling": goodput / ceiling if ceiling else None,
        "errors": float(errors(judged)),
        "refused": float(len(refused)),
        "refused_without_retry_info": float(sum(not s.has_retry_info for s in refused)),
        "decode_ms": decode,
        "alone_decode_ms": alone_decode,
        "alone_ms": normal,
        **{f"click_{name}_ms": latency.get(name) for name in FIGURES},
        "click_p99_over_decode": latency["p99"] / decode if latency and decode else None,
        "new_p50_ms": percentiles(of_kinds(judged, [NEW])).get("p50"),
        "recovery_seconds": recovered,
        "late_p99_ms": float(np.percentile(delays, 99)) if delays else None,
    }


def judge(
    figures: Mapping[str, float | None], thresholds: Mapping[str, Mapping[str, float]]
) -> list[ThresholdResult]:
    """Compare figures with thresholds.

    Raises:
        ValueError: A threshold has an unknown name or no valid bound.
    """
    results = []
    for name, bounds in thresholds.items():
        if name not in figures:
            raise ValueError(f"unknown figure {name!r}; available: {', '.join(figures)}")

        if not bounds or set(bounds) - {LEAST, MOST}:
            raise ValueError(f"invalid bounds {bounds} of {name}; give {LEAST} or {MOST}")

        results += [
            ThresholdResult(name, figures[name], side, float(bound))
            for side, bound in bounds.items()
        ]
    return results


def read_thresholds(file: Path, section: str) -> dict[str, dict[str, float]]:
    """Read one section of thresholds.yaml; raises ValueError if it does not exist."""
    sections: dict[str, Any] = yaml.safe_load(file.read_text())
    if section not in sections:
        raise ValueError(f"unknown section {section!r} of {file}; available: {', '.join(sections)}")

    thresholds: dict[str, dict[str, float]] = sections[section]
    return thresholds
