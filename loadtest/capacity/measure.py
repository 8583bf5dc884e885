"""What rate of clicks the decoders carry, and how they bear 80% and 200% of it: `python -m loadtest.capacity.measure`.

Capacity is the highest rate of an open loop at which the section "capacity" of thresholds.yaml holds, to within
15%, found by steps of a minute. Since that bounds the latency, more clicks than that can be answered, only
later: the most that can, in a closed loop of callers who never pause, is called the ceiling. Then 3 minutes at 80% of
capacity are judged by "normal", and 1 minute by "overload", at 200% of capacity or, where that is more, at 150% of the
ceiling, so that it is overload indeed; the ceiling is measured again just before, because machines do not stay equally
fast. Takes about 14 minutes; writes build/load/capacity-N.json for N decoders, and a
report for each judged load. Ends with 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from samserve.local.process import StartFailed

from loadtest.load.run_load import tell_verdict
from loadtest.load.traffic.run import LoadFailed, Run, Target, local_target, machine, run
from loadtest.load.traffic.scenario import CLICKS, Scenario

STEP = Scenario(arrivals=CLICKS, seconds=65, settling=5)  # less, and one burst is the p99
GREEDY = Scenario(users=12, seconds=20, settling=4, think=1e-4)
STRIDE, CLOSE = (
    1.3,
    1.15,
)  # between the first steps' rates; how near the rate that holds and the one that fails must be
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
        rate = min(low * STRIDE, (low * high) ** 0.5) if low else high / STRIDE
    return low


def measure(
    target: Target, folder: Path, first: float, tell: Callable[[str], None]
) -> tuple[float, list[Step]]:
    """Capacity in clicks a second, and the steps that found it, beginning with the rate `first`."""
    steps: list[Step] = []

    def attempt(rate: float) -> bool:
        done = run(replace(STEP, rate=rate), target, folder / "step", "capacity")
        steps.append(Step(rate, done.holds, done.figures))
        fails = "; ".join(str(one) for one in done.judged if not one.holds)
        tell(f"{rate:.1f} clicks a second: {fails or 'holds'}")
        return done.holds

    return find_capacity(attempt, first), steps


def ceiling_of(target: Target, folder: Path) -> float:
    """The most clicks a second that are answered, however late. Raises LoadFailed if none is."""
    most = run(GREEDY, target, folder / "step", "smoke").figures["clicks_per_second"]
    if not most:
        raise LoadFailed("no click was answered")
    return most


def overload_rate(capacity: float, ceiling: float) -> float:
    """Clicks a second that are too many by any measure."""
    return max(2 * capacity, 1.5 * ceiling)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3, help="of the load at 80%%")
    parser.add_argument("--overload-minutes", type=float, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/load"))
    asked = parser.parse_args()
    name = f"capacity-{asked.decoders}"
    try:
        with local_target(
            asked.decoders, lambda part: print(f"starting {part}", flush=True)
        ) as target:
            ceiling = ceiling_of(target, asked.out / name)
            print(f"ceiling: {ceiling:.1f} clicks a second")
            capacity, steps = measure(target, asked.out / name, 0.3 * ceiling, print)
            if not capacity:
                raise LoadFailed("no rate holds the thresholds of section capacity")
            print(f"capacity: {capacity:.1f} clicks a second")

            def judged(section: str, rate: float, minutes: float) -> Run:
                scenario = Scenario(arrivals=CLICKS, rate=rate, seconds=60 * minutes)
                folder = asked.out / f"{name}-{section}"
                print(f"{section}: {rate:.1f} clicks a second for {scenario.seconds:g} s")
                done = run(scenario, target, folder, section, ceiling)
                tell_verdict(done, folder)
                return done

            runs = {"normal": judged("normal", 0.8 * capacity, asked.minutes)}
            ceiling = ceiling_of(target, asked.out / name)
            print(f"ceiling: {ceiling:.1f} clicks a second")
            runs["overload"] = judged(
                "overload", overload_rate(capacity, ceiling), asked.overload_minutes
            )
    except (LoadFailed, StartFailed) as problem:
        sys.exit(str(problem))
    written = {
        "machine": machine(),
        "ceiling": ceiling,
        "capacity": capacity,
        "steps": [asdict(step) for step in steps],
    }
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
