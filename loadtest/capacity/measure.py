"""Measures the capacity of decoders: `python -m loadtest.capacity.measure`. About 14 minutes.

The capacity is the highest rate of an open loop at which the section "capacity" of thresholds.yaml
holds. It is found to within 15%, in steps of a minute. The ceiling is higher: the most clicks per
second that are answered, however late, measured with callers who never pause.

Then two loads are judged. "normal" is 3 minutes at 80% of the capacity. "overload" is 1 minute at
200% of the capacity or 150% of the ceiling, whichever is more. The ceiling is measured again just
before, because the speed of a machine drifts.

Writes build/load/capacity-N.json for N decoders, and a report of each judged load. Exits with 1 if
a judged load fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from samserve.local.process import StartFailed

from loadtest.load.run_load import print_verdict
from loadtest.load.traffic.run import LoadFailed, Run, Target, local_target, machine, run
from loadtest.load.traffic.scenario import CLICKS, Scenario

STEP = Scenario(arrivals=CLICKS, seconds=65, settling=5)  # if shorter, one burst decides the p99
GREEDY = Scenario(users=12, seconds=20, settling=4, think=1e-4)
STRIDE = 1.3  # factor between the first rates of the search
CLOSE = 1.15  # the search ends when the failing rate is at most this factor above the holding one
MOST_STEPS = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the search: a rate, whether it held, and its figures."""

    rate: float
    holds: bool
    figures: dict[str, float | None]


def find_capacity(attempt: Callable[[float], bool], first: float) -> float:
    """Search the highest rate that holds, to within CLOSE.

    Args:
        attempt: Tells whether a rate holds.
        first: The first rate to try.

    Returns:
        The rate, or 0 if no rate holds.
    """
    low, high, rate = 0.0, float("inf"), first

    for _ in range(MOST_STEPS):
        if attempt(rate):
            low = rate
        else:
            high = rate

        if high <= low * CLOSE:
            break
        rate = min(low * STRIDE, (low * high) ** 0.5) if low else high / STRIDE

    return low


def measure(
    target: Target, folder: Path, first: float, on_progress: Callable[[str], None]
) -> tuple[float, list[Step]]:
    """Measure the capacity in clicks per second.

    Args:
        target: The service.
        folder: Where the loads are written.
        first: The first rate to try.
        on_progress: Called with a message after each step.

    Returns:
        The capacity, and the steps of the search.
    """
    steps: list[Step] = []

    def attempt(rate: float) -> bool:
        result = run(replace(STEP, rate=rate), target, folder / "step", "capacity")
        steps.append(Step(rate, result.holds, result.figures))
        failed = "; ".join(str(threshold) for threshold in result.results if not threshold.holds)
        on_progress(f"{rate:.1f} clicks per second: {failed or 'holds'}")
        return result.holds

    return find_capacity(attempt, first), steps


def ceiling_of(target: Target, folder: Path) -> float:
    """Measure the most clicks per second that are answered, however late.

    Raises:
        LoadFailed: No click was answered.
    """
    ceiling = run(GREEDY, target, folder / "step", "smoke").figures["clicks_per_second"]
    if not ceiling:
        raise LoadFailed("no click was answered")
    return ceiling


def overload_rate(capacity: float, ceiling: float) -> float:
    """Return a rate beyond both the capacity and the ceiling, in clicks per second."""
    return max(2 * capacity, 1.5 * ceiling)


def main() -> None:
    options = _parser().parse_args()
    name = f"capacity-{options.decoders}"
    steps_folder = options.out / name
    try:
        with local_target(
            options.decoders, lambda part: print(f"starting {part}", flush=True)
        ) as target:

            def measured_ceiling() -> float:
                ceiling = ceiling_of(target, steps_folder)
                print(f"ceiling: {ceiling:.1f} clicks per second")
                return ceiling

            def judged(section: str, rate: float, minutes: float) -> Run:
                scenario = Scenario(arrivals=CLICKS, rate=rate, seconds=60 * minutes)
                folder = options.out / f"{name}-{section}"
                print(f"{section}: {rate:.1f} clicks per second for {scenario.seconds:g} s")
                result = run(scenario, target, folder, section, ceiling)
                print_verdict(result, folder)
                return result

            # The ceiling gives the first rate of the search.
            ceiling = measured_ceiling()
            capacity, steps = measure(target, steps_folder, 0.3 * ceiling, print)
            if not capacity:
                raise LoadFailed("no rate holds the thresholds of the section 'capacity'")
            print(f"capacity: {capacity:.1f} clicks per second")

            runs = {"normal": judged("normal", 0.8 * capacity, options.minutes)}
            ceiling = measured_ceiling()
            rate = overload_rate(capacity, ceiling)
            runs["overload"] = judged("overload", rate, options.overload_minutes)
    except (LoadFailed, StartFailed) as error:
        sys.exit(str(error))

    values = {
        "machine": machine(),
        "ceiling": ceiling,
        "capacity": capacity,
        "steps": [asdict(step) for step in steps],
    }
    values |= {section: _summary(result) for section, result in runs.items()}
    (options.out / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
    sys.exit(0 if all(result.holds for result in runs.values()) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--decoders", type=int, default=1, help="decoders of the local stack")
    parser.add_argument("--minutes", type=float, default=3, help="duration of the normal load")
    parser.add_argument(
        "--overload-minutes", type=float, default=1, help="duration of the overload"
    )
    parser.add_argument("--out", type=Path, default=Path("build/load"), help="output folder")
    return parser


def _summary(result: Run) -> dict[str, object]:
    return {
        "holds": result.holds,
        "rate": result.scenario.rate,
        "seconds": result.scenario.seconds,
        "figures": result.figures,
        "cores": result.cores,
        "verdict": [str(threshold) for threshold in result.results],
    }


if __name__ == "__main__":
    main()
