"""Fuzzes all targets: `PYTHONPATH=tests python -m fuzz --seconds 600`. Needs atheris.

Each target is a module in fuzz/targets with a function `check`, which gets bytes and raises if the
code under test does. Coverage of samserve's and Pillow's Python code guides the inputs. Seeds are
in fuzz/corpus; inputs that reach new code are kept in build/fuzz, and those that fail too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in HERE.glob("targets/[a-z]*.py"))
FOUND = Path("build/fuzz")


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a target.

    Attributes:
        failed: Whether an input failed.
        executions: Inputs that were tried.
        slowest_ms: CPU time of the slowest input.
        growth_mib: Memory at the end less that after the first tenth of the run.
        output: What the fuzzer printed.
    """

    failed: bool
    executions: int
    slowest_ms: float
    growth_mib: float
    output: str


def fuzz(target: str, folder: Path, *flags: str) -> Report:
    """Fuzz a target in a new process.

    Args:
        target: Its name.
        folder: Keeps inputs that reach new code, and those that fail.
        flags: Of libFuzzer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stats = folder.with_suffix(".json")
    stats.unlink(missing_ok=True)

    command = [sys.executable, "-m", "fuzz.run", target, str(stats)]
    command += [f"-artifact_prefix={folder}/failed-", *flags, str(folder)]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(HERE / "corpus" / target)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    facts = json.loads(stats.read_text()) if stats.exists() else {}
    return Report(
        failed=done.returncode != 0,
        executions=facts.get("executions", 0),
        slowest_ms=facts.get("slowest_ms", 0),
        growth_mib=facts.get("growth_mib", 0),
        output=done.stdout,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--runs", type=int, default=-1, help="inputs of each target")
    parser.add_argument("--target", choices=TARGETS, action="append")
    options = parser.parse_args()

    targets = options.target or TARGETS
    seconds = options.seconds // len(targets)
    failed = False
    for target in targets:
        flags = (f"-max_total_time={seconds}", f"-runs={options.runs}")
        report = fuzz(target, FOUND / target, *flags)
        failed |= report.failed
        outcome = "FAILED" if report.failed else "ok"
        print(
            f"{target:10} {outcome:6} {report.executions:>10,} inputs  "
            f"slowest {report.slowest_ms:.0f} ms of CPU  growth {report.growth_mib:.0f} MiB",
            flush=True,
        )
        if report.failed:
            print(report.output[-4000:])
    sys.exit(failed)


if __name__ == "__main__":
    main()
