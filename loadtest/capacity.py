"""What rate of clicks the decoders carry, and how they bear 80% and 200% of it: `python loadtest/capacity.py`.

Capacity is the highest rate of an open loop at which the section "capacity" of thresholds.yaml holds, to within a tenth,
found by steps of 20 s. Then 3 minutes at 80% are judged by "normal", 1 minute at 200% by "overload". Takes about 12
minutes; writes build/load/capacity-N.json for N decoders, and a report for each judged load. Ends with 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from load import tell_verdict
from traffic.run import LoadFailed, Run, Target, local_target, machine, run
from traffic.scenario import CLICKS, Scenario

STEP = Scenario(arrivals=CLICKS, seconds=20, settling=4)
STRIDE, CLOSE = 1.4, 1.1  # between the first steps' rates; how near the rate that holds and the one that fails must be
MOST_STEPS = 12


@dataclass(frozen=True, slots=True)
class Step:
    """A rate that was tried, whether it held, and its figures."""

    rate: float
    holds: bool
    figures: dict[str, float | None]


def find_capacity(attempt: Callable[[float], bool], first: float) -> float:
    """The highest rate that holds, to within CLOSE, or 0 if none does. `attempt` says whether a rate holds."""
    low, high, rate = 0.0, float("inf"), first
    for _ in range(MOST_STEPS):
        if attempt(rate):
            low = rate
        else:
            high = rate
        if high <= low * CLOSE:
            break
        if low == 0:
            rate = high / STRIDE
        else:
            rate = min(low * STRIDE, (low * high) ** 0.5)
    return low


def measure(target: Target, folder: Path, tell: Callable[[str], None]) -> tuple[float, list[Step]]:
    """Capacity in clicks a second, and the steps that found it."""
    steps: list[Step] = []

    def attempt(rate: float) -> bool:
        done = run(replace(STEP, rate=rate), target, folder / "step", "capacity")
        steps.append(Step(rate, done.holds, done.figures))
        fails = "; ".join(str(one) for one in done.judged if not one.holds)
        tell(f"{rate:.1f} clicks a second: {fails or 'holds'}")
        return done.holds

    first = 1000 / alone_ms(target, folder)
    return find_capacity(attempt, first), steps


def alone_ms(target: Target, folder: Path) -> float:
    """What a click takes when nobody else is there."""
    done = run(replace(STEP, rate=1, seconds=3, settling=1), target, folder / "step", "smoke")
    alone = done.figures["alone_ms"]
    if alone is None:
        raise LoadFailed("no click was answered, however low the rate")
    return alone


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3, help="of the load at 80%%")
    parser.add_argument("--overload-minutes", type=float, default=1)
    parser.add_argument("--rate", type=float, help="take this for the capacity and do not search")
    parser.add_argument("--out", type=Path, default=Path("build/load"))
    asked = parser.parse_args()
    name = f"capacity-{asked.decoders}"
    try:
        with local_target(asked.decoders, lambda part: print(f"starting {part}", flush=True)) as target:
            capacity, steps = (asked.rate, []) if asked.rate else measure(target, asked.out / name, print)
            if not capacity:
                raise LoadFailed("no rate holds the thresholds of section capacity")
            print(f"capacity: {capacity:.1f} clicks a second")
            judged = {
                "normal": Scenario(arrivals=CLICKS, rate=0.8 * capacity, seconds=60 * asked.minutes),
                "overload": Scenario(arrivals=CLICKS, rate=2.0 * capacity, seconds=60 * asked.overload_minutes),
            }
            runs = {}
            for section, scenario in judged.items():
                print(f"{section}: {scenario.rate:.1f} clicks a second for {scenario.seconds:g} s")
                runs[section] = run(scenario, target, asked.out / f"{name}-{section}", section, capacity)
                tell_verdict(runs[section], asked.out / f"{name}-{section}")
    except LoadFailed as problem:
        sys.exit(str(problem))
    written = {"machine": machine(), "capacity": capacity, "steps": [asdict(step) for step in steps]}
    written |= {section: _in_short(done) for section, done in runs.items()}
    (asked.out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
    sys.exit(0 if all(done.holds for done in runs.values()) else 1)


def _in_short(done: Run) -> dict[str, object]:
    return {
        "holds": done.holds,
        "rate": done.scenario.rate,
        "seconds": done.scenario.seconds,
        "figures": done.figures,
        "cores": done.cores,
        "verdict": [str(one) for one in done.judged],
    }


if __name__ == "__main__":
    main()
