"""What the service would answer, and how fast, predicted from measured service times: `python -m loadtest.capacity.simulate`.

Needs build/load/calibration.json (loadtest/capacity/calibrate.py). `--rate R --decoders N` predicts one load on a machine like
the one that was measured, `--target-ms T` how many decoders with machines of their own it takes for a p95 of T.

`--check` makes loads with 1 and 2 decoders, at 40, 80 and 120% of the capacity that loadtest/capacity/measure.py has measured
for each (or at the rates given), and compares p50 and p95; about twelve minutes. Machines do not stay equally fast for
so long, so both are compared in bare decodes: of the calibration, and as measured before and after each load.
Writes build/load/check.json and ends with 1 if one is off by more than 15%.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from samserve.local.process import StartFailed

from loadtest.capacity.simulation.calibration import Calibration, read_calibration
from loadtest.capacity.simulation.model import Demand, Prediction, System, simulate
from loadtest.load.traffic.run import LoadFailed, Target, local_target, machine, run
from loadtest.load.traffic.scenario import CLICKS, Scenario

FOLDER = Path("build/load")
CHECKED = FOLDER / "check.json"
SHARES, COMPARED, ALLOWED = (0.4, 0.8, 1.2), ("p50", "p95"), 0.15
SECONDS, PREDICTED_SECONDS = 90.0, 400.0
LOWEST, FINEST, CLICKS_TRIED = (
    0.5,
    1.03,
    2000,
)  # of the search for a decoder's rate: where it begins, how near it comes


@dataclass(frozen=True, slots=True)
class Compared:
    """One percentile of one load, in milliseconds. bare: the decode around it, calibrated: the prediction's."""

    decoders: int
    rate: float
    percentile: str
    measured: float
    bare: float
    predicted: float
    calibrated: float

    @property
    def off(self) -> float:
        """How far the prediction is from what was measured, each in its bare decodes, as a share of the latter."""
        return self.predicted / self.calibrated / (self.measured / self.bare) - 1

    @property
    def holds(self) -> bool:
        return abs(self.off) <= ALLOWED


def rate_of_one(system: System, demand: Demand, target_ms: float, known: Calibration) -> float:
    """The most clicks a second for which one decoder's p95 is at most the target, none refused; 0 if no rate is."""

    def holds(rate: float) -> bool:
        seconds = demand.settling + max(20.0, CLICKS_TRIED / rate)
        found = simulate(
            replace(system, decoders=1), replace(demand, rate=rate, seconds=seconds), known
        )
        return found.refused == 0 and found.percentiles["p95"] <= target_ms

    low, high = LOWEST, system.threads * 1000 / min(known.first.one + known.refine.one)
    if not holds(low):
        return 0.0
    while high > FINEST * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def replicas(system: System, demand: Demand, target_ms: float, known: Calibration) -> int:
    """Decoders needed for the demand's rate. Each is taken to get its share of it as a Poisson process: in turn is
    kinder than that. Raises ValueError for a target that one click alone exceeds.
    """
    each = rate_of_one(system, demand, target_ms, known)
    if not each:
        raise ValueError(
            f"no number of decoders brings the p95 down to {target_ms:g} ms: a click alone takes longer"
        )
    return math.ceil(demand.rate / each)


def check(known: Calibration, rates: dict[int, list[float]]) -> list[Compared]:
    """Measure and predict each number of decoders at each of its rates."""
    compared = []
    for decoders, wanted in rates.items():
        with local_target(decoders, lambda part: print(f"starting {part}", flush=True)) as target:
            for rate in wanted:
                print(f"{decoders} decoders, {rate:.1f} clicks a second", flush=True)
                compared += compare(known, target, decoders, rate)
    return compared


def compare(known: Calibration, target: Target, decoders: int, rate: float) -> list[Compared]:
    scenario = Scenario(arrivals=CLICKS, rate=rate, seconds=SECONDS, settling=5)
    done = run(scenario, target, FOLDER / f"check-{decoders}-{rate:.0f}", "smoke")
    predicted = predict(known, decoders, rate)
    found = []
    for name in COMPARED:
        measured, bare = done.figures[f"click_{name}_ms"], done.figures["decode_ms"]
        if measured is None or bare is None:
            raise LoadFailed(f"no click was answered at {rate:.1f} a second")
        found.append(
            Compared(decoders, rate, name, measured, bare, predicted.percentiles[name], known.bare)
        )
    return found


def predict_again(known: Calibration, rows: list[dict[str, Any]]) -> list[Compared]:
    """The last check's loads as they were measured, and as they are predicted now."""
    found = {
        load: predict(known, *load) for load in {(row["decoders"], row["rate"]) for row in rows}
    }
    compared = []
    for row in rows:
        load, name = (row["decoders"], row["rate"]), row["percentile"]
        compared.append(
            Compared(
                *load, name, row["measured"], row["bare"], found[load].percentiles[name], known.bare
            )
        )
    return compared


def predict(known: Calibration, decoders: int, rate: float) -> Prediction:
    """The load of `compare` on the machine that was measured."""
    demand = Demand(rate, seconds=PREDICTED_SECONDS, refining=Scenario().refining)
    return simulate(System(decoders, known.threads), demand, known)


def measured_rates(shares: tuple[float, ...]) -> dict[int, list[float]]:
    """Shares of the capacity of 1 and 2 decoders. Raises FileNotFoundError if that has not been measured."""
    rates = {}
    for decoders in (1, 2):
        file = FOLDER / f"capacity-{decoders}.json"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} not found; run `python -m loadtest.capacity.measure --decoders {decoders}`"
            )
        capacity = json.loads(file.read_text())["capacity"]
        rates[decoders] = [share * capacity for share in shares]
    return rates


def tell_check(compared: list[Compared]) -> None:
    table = Table(
        "decoders",
        "clicks/s",
        "",
        "measured ms",
        "bare decode",
        "predicted ms",
        "bare decode",
        "off",
    )
    for one in compared:
        colour = "green" if one.holds else "red"
        times = (f"{ms:.1f}" for ms in (one.measured, one.bare, one.predicted, one.calibrated))
        off = f"[{colour}]{100 * one.off:+.1f}%[/]"
        table.add_row(str(one.decoders), f"{one.rate:.1f}", one.percentile, *times, off)
    Console(width=100).print(table)


def tell(found: Prediction) -> None:
    times = ", ".join(f"{name} {ms:.1f}" for name, ms in found.percentiles.items())
    print(
        f"{times} ms; {found.answered:.1f} answered a second, {100 * found.refused:.1f}% refused; ",
        end="",
    )
    print(f"{found.busy:.2f} cores in use, {100 * found.utilisation:.0f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rate", type=float, default=20, help="clicks a second")
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument(
        "--queue", type=float, default=math.inf, help="clicks that may wait in a decoder"
    )
    parser.add_argument("--target-ms", type=float, help="of p95: print the decoders it takes")
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--again", action="store_true", help="predict once more what --check measured"
    )
    parser.add_argument("--rates", help="of --check, instead of shares of capacity: 10,20,30")
    asked = parser.parse_args()
    try:
        known = read_calibration(FOLDER / "calibration.json")
        if asked.check:
            given = [float(rate) for rate in asked.rates.split(",")] if asked.rates else []
            compared = check(known, {1: given, 2: given} if given else measured_rates(SHARES))
        elif asked.again:
            compared = predict_again(known, json.loads(CHECKED.read_text())["rows"])
        elif asked.target_ms:
            system = System(threads=known.threads, together=False, queue=asked.queue)
            print(replicas(system, Demand(asked.rate), asked.target_ms, known))
            return
        else:
            tell(
                simulate(
                    System(asked.decoders, known.threads, queue=asked.queue),
                    Demand(asked.rate),
                    known,
                )
            )
            return
    except (FileNotFoundError, LoadFailed, StartFailed, ValueError) as problem:
        sys.exit(str(problem))
    tell_check(compared)
    rows = [{**asdict(one), "off": one.off, "holds": one.holds} for one in compared]
    CHECKED.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    sys.exit(0 if all(one.holds for one in compared) else 1)


if __name__ == "__main__":
    main()
