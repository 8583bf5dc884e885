"""Recorded calls and statistics over them. Pure, apart from reading and writing the CSV file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FIRST, REFINE, NEW, BULK, PROBE = "first", "refine", "new", "bulk", "probe"
ALONE, BARE = "alone", "bare"  # single clicks before the load; by a decoder with one thread
BESIDE = (ALONE, BARE, PROBE)  # kinds that are not part of the load
CLICK = (FIRST, REFINE)  # clicks on known images

REFUSED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
PERCENTILES = (50, 90, 95, 99)
FIGURES = (*(f"p{p}" for p in PERCENTILES), "mean")


@dataclass(frozen=True, slots=True)
class Sample:
    """One call. Times are seconds since the start of the load.

    Attributes:
        kind: One of this module's kinds.
        intended: When the call was to start. Latency counts from here, also if the generator was
            late.
        started: When the call started.
        ended: When the call ended.
        code: Name of the gRPC status code.
        has_retry_info: Whether a refused call carried RetryInfo.
        decode: Milliseconds of the decode stage, as the server reports them; 0 if it does not.
        masks: Milliseconds of the masks stage, likewise.
    """

    kind: str
    intended: float
    started: float
    ended: float
    code: str
    has_retry_info: bool = False
    decode: float = 0.0
    masks: float = 0.0

    @property
    def latency(self) -> float:
        """Milliseconds."""
        return 1000 * (self.ended - self.intended)

    @property
    def answered(self) -> bool:
        return self.code == "OK"


def of_kinds(samples: Iterable[Sample], kinds: Sequence[str]) -> list[Sample]:
    return [sample for sample in samples if sample.kind in kinds]


def percentiles(samples: Iterable[Sample]) -> dict[str, float]:
    """Latencies of the answered calls in milliseconds: p50 to p99 and the mean; {} without any."""
    latencies = [sample.latency for sample in samples if sample.answered]
    if not latencies:
        return {}

    values = np.percentile(latencies, PERCENTILES)
    by_name = {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)}
    return {**by_name, "mean": float(np.mean(latencies))}


def codes(samples: Iterable[Sample]) -> dict[str, int]:
    return dict(Counter(sample.code for sample in samples).most_common())


def errors(samples: Iterable[Sample]) -> int:
    """Number of calls that were neither answered nor refused."""
    return sum(not sample.answered and sample.code not in REFUSED for sample in samples)


def refusals(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.code in REFUSED]


def good(samples: Iterable[Sample], patience: float) -> list[Sample]:
    """Calls that were answered within `patience` seconds."""
    return [sample for sample in samples if sample.answered and sample.latency <= 1000 * patience]


def recovery(probes: Sequence[Sample], ended: float, normal: float) -> float | None:
    """Find when clicks are quick again after a load.

    Args:
        probes: Clicks sent after the load.
        ended: When the load ended, in seconds.
        normal: The usual latency of a click, in milliseconds.

    Returns:
        Seconds from the end of the load to the first probe with at most twice the usual latency;
        None if no probe was that quick.
    """
    quick = [
        probe.intended
        for probe in probes
        if probe.intended >= ended and probe.answered and probe.latency <= 2 * normal
    ]
    return min(quick) - ended if quick else None


def per_second(samples: Sequence[Sample], seconds: float) -> Floats:
    """Number of calls that ended in each second, [ceil(seconds)]."""
    ends = [sample.ended for sample in samples]
    bins = np.arange(int(np.ceil(seconds)) + 1)
    return np.histogram(ends, bins)[0].astype(np.float64)


def write_samples(samples: Iterable[Sample], file: Path) -> None:
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(field.name for field in fields(Sample))
        rows.writerows(astuple(sample) for sample in samples)


def read_samples(file: Path) -> list[Sample]:
    with file.open(newline="") as stream:
        return [
            Sample(
                row["kind"],
                float(row["intended"]),
                float(row["started"]),
                float(row["ended"]),
                row["code"],
                row["has_retry_info"] == "True",
                float(row["decode"]),
                float(row["masks"]),
            )
            for row in csv.DictReader(stream)
        ]
