"""Predicts answers and latencies from measured times: `python -m loadtest.capacity.simulate`.

Needs build/load/calibration.json from loadtest.capacity.calibrate. `--rate R --decoders N` predicts
one load on a machine like the measured one. `--target-ms T` prints how many decoders with dedicated
machines keep the p95 within T.

`--check` compares predicted with measured p50 and p95, in about twelve minutes. It makes loads with
1 and 2 decoders, at 40, 80 and 120% of the capacity from loadtest.capacity.measure, or at the given
rates. The speed of a machine drifts meanwhile, so both sides are divided by their bare decode: that
of the calibration, and that around each load. Writes build/load/check.json and exits with 1 if an
error exceeds 15%.
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

# The check.
SHARES = (0.4, 0.8, 1.2)  # of the capacity
COMPARED = ("p50", "p95")
ALLOWED = 0.15  # relative error
SECONDS, PREDICTED_SECONDS = 90.0, 400.0

# The search for the rate of one decoder.
LOWEST = 0.5  # clicks per second
FINEST = 1.03  # factor between a rate that holds and one that fails
CLICKS_TRIED = 2000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One percentile of one load, measured and predicted. Times in milliseconds.

    Attributes:
        decoders: Number of decoders.
        rate: Clicks per second.
        percentile: "p50" or "p95".
        measured: The measured percentile.
        bare: The bare decode around the measurement.
        predicted: The predicted percentile.
        calibrated: The bare decode of the calibration.
    """

    decoders: int
    rate: float
    percentile: str
    measured: float
    bare: float
    predicted: float
    calibrated: float

    @property
    def off(self) -> float:
        """Relative error of the prediction, with both sides in bare decodes."""
        return self.predicted / self.calibrated / (self.measured / self.bare) - 1

    @property
    def holds(self) -> bool:
        return abs(self.off) <= ALLOWED


def rate_of_one(
    system: System, demand: Demand, target_ms: float, calibration: Calibration
) -> float:
    """Find the highest rate of one decoder that keeps the p95 within the target.

    Args:
        system: The deployment; its number of decoders is ignored.
        demand: The load; its rate and duration are ignored.
        target_ms: Target of the p95 in milliseconds. No click may be refused.
        calibration: Measured service times.

    Returns:
        Clicks per second, or 0 if no rate is low enough.
    """

    def holds(rate: float) -> bool:
        seconds = demand.settling + max(20.0, CLICKS_TRIED / rate)
        load = replace(demand, rate=rate, seconds=seconds)
        prediction = simulate(replace(system, decoders=1), load, calibration)
        return prediction.refused == 0 and prediction.percentiles["p95"] <= target_ms

    fastest = min(calibration.first.one + calibration.refine.one)
    low, high = LOWEST, system.threads * 1000 / fastest
    if not holds(low):
        return 0.0

    while high > FINEST * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def replicas(system: System, demand: Demand, target_ms: float, calibration: Calibration) -> int:
    """Return the number of decoders that carry the demand's rate within the target.

    Each decoder is assumed to get its share as a Poisson process; round robin is more even.

    Raises:
        ValueError: A single click takes longer than the target.
    """
    rate = rate_of_one(system, demand, target_ms, calibration)
    if not rate:
        raise ValueError(
            f"no number of decoders reaches a p95 of {target_ms:g} ms: "
            "a click alone takes longer; raise --target-ms"
        )
    return math.ceil(demand.rate / rate)


def check(calibration: Calibration, rates: dict[int, list[float]]) -> list[Comparison]:
    """Measure and predict each number of decoders at each of its rates."""
    comparisons = []
    for decoders, decoder_rates in rates.items():
        with local_target(decoders, lambda part: print(f"starting {part}", flush=True)) as target:
            for rate in decoder_rates:
                print(f"{decoders} decoders, {rate:.1f} clicks per second", flush=True)
                comparisons += compare(calibration, target, decoders, rate)
    return comparisons


def compare(
    calibration: Calibration, target: Target, decoders: int, rate: float
) -> list[Comparison]:
    scenario = Scenario(arrivals=CLICKS, rate=rate, seconds=SECONDS, settling=5)
    result = run(scenario, target, FOLDER / f"check-{decoders}-{rate:.0f}", "smoke")
    prediction = predict(calibration, decoders, rate)

    comparisons = []
    for name in COMPARED:
        measured = result.figures[f"click_{name}_ms"]
        bare = result.figures["decode_ms"]
        if measured is None or bare is None:
            raise LoadFailed(f"no click was answered at {rate:.1f} clicks per second")

        predicted = prediction.percentiles[name]
        comparisons.append(
            Comparison(decoders, rate, name, measured, bare, predicted, calibration.bare)
        )
    return comparisons


def predict_again(calibration: Calibration, rows: list[dict[str, Any]]) -> list[Comparison]:
    """Compare the measurements of the last check with new predictions."""
    loads = {(row["decoders"], row["rate"]) for row in rows}
    predictions = {load: predict(calibration, *load) for load in loads}

    comparisons = []
    for row in rows:
        load = row["decoders"], row["rate"]
        name = row["percentile"]
        predicted = predictions[load].percentiles[name]
        comparisons.append(
            Comparison(*load, name, row["measured"], row["bare"], predicted, calibration.bare)
        )
    return comparisons


def predict(calibration: Calibration, decoders: int, rate: float) -> Prediction:
    """Predict the load of `compare` on the measured machine."""
    demand = Demand(rate, seconds=PREDICTED_SECONDS, refining=Scenario().refining)
    return simulate(System(decoders, calibration.threads), demand, calibration)


def measured_rates(shares: tuple[float, ...]) -> dict[int, list[float]]:
    """Return shares of the capacity of 1 and 2 decoders.

    Raises:
        FileNotFoundError: The capacity has not been measured.
    """
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


def print_comparisons(comparisons: list[Comparison]) -> None:
    table = Table(
        "decoders",
        "clicks/s",
        "",
        "measured ms",
        "bare decode",
        "predicted ms",
        "bare decode",
        "error",
    )
    for row in comparisons:
        color = "green" if row.holds else "red"
        times = (f"{ms:.1f}" for ms in (row.measured, row.bare, row.predicted, row.calibrated))
        error = f"[{color}]{100 * row.off:+.1f}%[/]"
        table.add_row(str(row.decoders), f"{row.rate:.1f}", row.percentile, *times, error)
    Console(width=100).print(table)


def print_prediction(prediction: Prediction) -> None:
    times = ", ".join(f"{name} {ms:.1f}" for name, ms in prediction.percentiles.items())
    print(
        f"{times} ms; {prediction.answered:.1f} answered per second, "
        f"{100 * prediction.refused:.1f}% refused; "
        f"{prediction.busy:.2f} cores in use, {100 * prediction.utilisation:.0f}%"
    )


def main() -> None:
    options = _parser().parse_args()
    try:
        calibration = read_calibration(FOLDER / "calibration.json")

        if options.check:
            given = [float(rate) for rate in options.rates.split(",")] if options.rates else []
            rates = {1: given, 2: given} if given else measured_rates(SHARES)
            comparisons = check(calibration, rates)
        elif options.again:
            comparisons = predict_again(calibration, json.loads(CHECKED.read_text())["rows"])
        elif options.target_ms:
            system = System(threads=calibration.threads, together=False, queue=options.queue)
            print(replicas(system, Demand(options.rate), options.target_ms, calibration))
            return
        else:
            system = System(options.decoders, calibration.threads, queue=options.queue)
            print_prediction(simulate(system, Demand(options.rate), calibration))
            return
    except (FileNotFoundError, LoadFailed, StartFailed, ValueError) as error:
        sys.exit(str(error))

    print_comparisons(comparisons)
    rows = [{**asdict(row), "off": row.off, "holds": row.holds} for row in comparisons]
    CHECKED.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    sys.exit(0 if all(row.holds for row in comparisons) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rate", type=float, default=20, help="clicks per second")
    parser.add_argument("--decoders", type=int, default=1, help="decoders on the machine")
    parser.add_argument(
        "--queue", type=float, default=math.inf, help="clicks that may wait in a decoder"
    )
    parser.add_argument(
        "--target-ms", type=float, help="print how many decoders keep the p95 within this time"
    )
    parser.add_argument("--check", action="store_true", help="compare predictions with loads")
    parser.add_argument(
        "--again", action="store_true", help="predict the loads of the last --check again"
    )
    parser.add_argument(
        "--rates", help="rates for --check, instead of shares of the capacity: 10,20,30"
    )
    return parser


if __name__ == "__main__":
    main()
