"""Load against a samserve, judged: `python -m loadtest.load.run_load --users 20 --minutes 1`.

Without addresses it starts a stack of its own on this machine. Writes report.html, summary.json and samples.csv to
--out and ends with 1 if a threshold fails. Takes the minutes asked for and about one more.
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


def main(words: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(words)
    try:
        scenario = scenario_asked(asked)
        with target_asked(asked) as target:
            done = run(scenario, target, asked.out, asked.judge, asked.ceiling)
    except (LoadFailed, StartFailed, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)
    tell_verdict(done, asked.out)
    sys.exit(0 if done.holds else 1)


def tell_verdict(done: Run, folder: Path) -> None:
    for one in done.judged:
        print(one)
    cores = ", ".join(f"{name} {share:.2f}" for name, share in done.cores.items())
    print(f"cores in use: {cores}")
    print(f"report: {folder / 'report.html'}")


def scenario_asked(asked: argparse.Namespace) -> Scenario:
    """The file's scenario, with what the command line says instead."""
    scenario = read_scenario(asked.scenario) if asked.scenario else Scenario()
    if asked.rate is not None:
        scenario = replace(scenario, arrivals=VISITS if asked.visits else CLICKS, rate=asked.rate)
    if asked.users is not None:
        scenario = replace(scenario, arrivals=USERS, users=asked.users)
    given = {"seed": asked.seed, "new": asked.new, "batch_jobs": asked.batch_jobs}
    if asked.minutes is not None:
        given["seconds"] = 60 * asked.minutes
    return replace(scenario, **{name: value for name, value in given.items() if value is not None})


def target_asked(asked: argparse.Namespace) -> AbstractContextManager[Target]:
    if bool(asked.decoder) != bool(asked.embedding):
        raise ValueError(
            "give both --decoder and --embedding, or neither for a stack on this machine"
        )
    if asked.decoder:
        return nullcontext(Target(tuple(asked.decoder.split(",")), asked.embedding, {}))
    return local_target(asked.decoders, lambda part: print(f"starting {part}", flush=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--decoder", metavar="HOST:PORT[,...]", help="several are taken in turn; a name may be many"
    )
    parser.add_argument("--embedding", metavar="HOST:PORT")
    parser.add_argument("--decoders", type=int, default=1, help="of the local stack")
    parser.add_argument(
        "--scenario",
        type=Path,
        metavar="FILE.yaml",
        help="fields of traffic/scenario.py's Scenario",
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--users", type=int, help="closed loop: annotators who wait for their answers"
    )
    load.add_argument(
        "--rate",
        type=float,
        help="open loop: clicks a second by a Poisson process, whoever still waits",
    )
    parser.add_argument(
        "--visits", action="store_true", help="--rate is of visits: pictures opened and worked on"
    )
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--new", type=float, help="share of pictures that nobody has seen")
    parser.add_argument(
        "--batch-jobs", type=int, help="that embed new pictures at low priority meanwhile"
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--judge", default="normal", metavar="SECTION", help="of thresholds.yaml")
    parser.add_argument(
        "--ceiling",
        type=float,
        help="clicks a second, as capacity.py finds it: overload is judged by it",
    )
    parser.add_argument("--out", type=Path, default=Path("build/load"))
    return parser


if __name__ == "__main__":
    main()
