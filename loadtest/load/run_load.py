"""Runs a load test and judges it: `python -m loadtest.load.run_load --users 20 --minutes 1`.

Without addresses it starts a local stack. It writes report.html, summary.json and samples.csv to
--out. It exits with 1 if a threshold fails, and takes about a minute longer than --minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from samserve.local.process import StartFailed

from loadtest.load.traffic.run import LoadFailed, Run, Target, local_target, run
from loadtest.load.traffic.scenario import CLICKS, USERS, VISITS, Scenario, read_scenario


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        scenario = scenario_from(options)
        with target_from(options) as target:
            result = run(scenario, target, options.out, options.judge, options.ceiling)
    except (LoadFailed, StartFailed, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)

    print_verdict(result, options.out)
    sys.exit(0 if result.holds else 1)


def print_verdict(result: Run, folder: Path) -> None:
    for threshold in result.results:
        print(threshold)

    cores = ", ".join(f"{name} {share:.2f}" for name, share in result.cores.items())
    print(f"cores in use: {cores}")
    print(f"report: {folder / 'report.html'}")


def scenario_from(options: argparse.Namespace) -> Scenario:
    """Return the scenario of the file, overridden by the command line."""
    scenario = read_scenario(options.scenario) if options.scenario else Scenario()

    if options.rate is not None:
        arrivals = VISITS if options.visits else CLICKS
        scenario = replace(scenario, arrivals=arrivals, rate=options.rate)
    if options.users is not None:
        scenario = replace(scenario, arrivals=USERS, users=options.users)

    overrides = {"seed": options.seed, "new": options.new, "batch_jobs": options.batch_jobs}
    if options.minutes is not None:
        overrides["seconds"] = 60 * options.minutes
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(scenario, **given)


def target_from(options: argparse.Namespace) -> AbstractContextManager[Target]:
    if bool(options.decoder) != bool(options.embedding):
        raise ValueError("give both --decoder and --embedding, or neither to start a local stack")

    if options.decoder:
        return nullcontext(Target(tuple(options.decoder.split(",")), options.embedding, {}))
    return local_target(options.decoders, lambda part: print(f"starting {part}", flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])

    # The service.
    parser.add_argument(
        "--decoder",
        metavar="HOST:PORT[,...]",
        help="decoders, used in round robin; a DNS name may resolve to several",
    )
    parser.add_argument("--embedding", metavar="HOST:PORT", help="embedding service")
    parser.add_argument("--decoders", type=int, default=1, help="decoders of the local stack")

    # The scenario.
    parser.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE.yaml",
        help="scenario file; its fields are those of Scenario in traffic/scenario.py",
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--users", type=int, help="closed loop: annotators who wait for each answer")
    load.add_argument(
        "--rate", type=float, help="open loop: clicks per second, by a Poisson process"
    )
    parser.add_argument(
        "--visits", action="store_true", help="--rate counts visits: images opened and worked on"
    )
    parser.add_argument("--minutes", type=float, help="duration of the load")
    parser.add_argument("--new", type=float, help="share of images that were never sent before")
    parser.add_argument(
        "--batch-jobs", type=int, help="jobs that embed new images at low priority meanwhile"
    )
    parser.add_argument("--seed", type=int, help="seed of all random choices")

    # The verdict.
    parser.add_argument(
        "--judge",
        default="normal",
        metavar="SECTION",
        help="section of thresholds.yaml (default: normal)",
    )
    parser.add_argument(
        "--ceiling",
        type=float,
        help="clicks per second, as loadtest.capacity.measure finds it; "
        "the section overload needs it",
    )
    parser.add_argument("--out", type=Path, default=Path("build/load"), help="output folder")
    return parser


if __name__ == "__main__":
    main()
