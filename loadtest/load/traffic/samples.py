"""What came of each call, and figures of many. Pure."""

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
ALONE, BARE = "alone", "bare"  # one at a time before the load; by a decoder of one thread
BESIDE = (ALONE, BARE, PROBE)  # the load
CLICK = (FIRST, REFINE)  # on pictures that are known
REFUSED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
PERCENTILES = (50, 90, 95, 99)
FIGURES = (*(f"p{p}" for p in PERCENTILES), "mean")


@dataclass(frozen=True, slots=True)
class Sample:
    """One call. Times are seconds since the load's begin.

    intended: when it was to start; in an open loop it may have started later because the generator was late, and its
    time counts from then all the same. kind: one of this module's. code: gRPC's name. told_when: a refusal with
    RetryInfo. decode, masks: the server's own word on these stages in milliseconds, 0 if it gave none.
    """

    kind: str
    intended: float
    started: float
    ended: float
    code: str
    told_when: bool = False
    decode: float = 0.0
    masks: float = 0.0

    @property
    def taken(self) -> float:
        """Milliseconds."""
        return 1000 * (self.ended - self.intended)

    @property
    def answered(self) -> bool:
        return self.code == "OK"


def of_kinds(samples: Iterable[Sample], kinds: Sequence[str]) -> list[Sample]:
    return [sample for sample in samples if sample.kind in kinds]


def percentiles(samples: Iterable[Sample]) -> dict[str, float]:
    """Milliseconds of the calls that were answered: p50 to p99, and the mean; {} if there is none."""
    taken = [sample.taken for sample in samples if sample.answered]
    if not taken:
        return {}
    found = {
        f"p{p}": float(value)
        for p, value in zip(PERCENTILES, np.percentile(taken, PERCENTILES), strict=True)
    }
    return {**found, "mean": float(np.mean(taken))}


def codes(samples: Iterable[Sample]) -> dict[str, int]:
    return dict(Counter(sample.code for sample in samples).most_common())


def errors(samples: Iterable[Sample]) -> int:
    """Calls neither answered nor refused."""
    return sum(not sample.answered and sample.code not in REFUSED for sample in samples)


def refusals(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.code in REFUSED]


def good(samples: Iterable[Sample], patience: float) -> list[Sample]:
    """Those answered while their callers still waited; patience: seconds."""
    return [sample for sample in samples if sample.answered and sample.taken <= 1000 * patience]


def recovery(probes: Sequence[Sample], ended: float, normal: float) -> float | None:
    """Seconds from the load's end to the first probe sent from then on that is answered within twice its `normal`
    milliseconds; None if there is none.
    """
    quick = [
        p.intended for p in probes if p.intended >= ended and p.answered and p.taken <= 2 * normal
    ]
    return min(quick) - ended if quick else None


def per_second(samples: Sequence[Sample], seconds: float) -> Floats:
    """Calls that ended in each second, [ceil(seconds)]."""
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
                row["told_when"] == "True",
                float(row["decode"]),
                float(row["masks"]),
            )
            for row in csv.DictReader(stream)
        ]
