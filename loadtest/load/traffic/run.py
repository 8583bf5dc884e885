"""Runs one load from start to end: starts the generator, judges its samples, writes the report."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samserve.local.process import free_port
from samserve.local.stack import StackOptions, running

from loadtest.load.traffic.order import GENERATOR, SAMPLES, Order, write_order
from loadtest.load.traffic.page import page
from loadtest.load.traffic.samples import Sample, codes, of_kinds, read_samples
from loadtest.load.traffic.scenario import Scenario
from loadtest.load.traffic.verdict import ThresholdResult, figures, judge, read_thresholds

ROOT = Path(__file__).resolve().parents[3]
THRESHOLDS = Path(__file__).resolve().parents[1] / "thresholds.yaml"
ONE_THREAD = {"SAMSERVE_DECODE_THREADS": 1}
SLACK = 240.0  # seconds for warm-up, single clicks and the last answers


class LoadFailed(RuntimeError):
    """The load could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """The service under load.

    Attributes:
        decoders: HOST:PORT of each decoder.
        embedding: HOST:PORT of the embedding service.
        watched: Ids of its processes on this machine, by name.
        bare: HOST:PORT of a decoder with one thread that gets no load and measures the bare
            decode; empty without one.
    """

    decoders: tuple[str, ...]
    embedding: str
    watched: dict[str, int]
    bare: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a load.

    Attributes:
        scenario: The load.
        samples: Every call.
        figures: Statistics by name, as verdict.figures returns them.
        cores: CPU seconds per second of each watched process, the generator and the whole machine.
        results: The judged thresholds.
    """

    scenario: Scenario
    samples: list[Sample]
    figures: dict[str, float | None]
    cores: dict[str, float]
    results: list[ThresholdResult]

    @property
    def holds(self) -> bool:
        return all(result.holds for result in self.results)


@contextmanager
def local_target(
    decoders: int, on_progress: Callable[[str], None] = lambda _: None
) -> Iterator[Target]:
    """Run a stack with this many decoders on this machine; it takes about 20 s to start."""
    with running(StackOptions(), on_progress) as stack:
        addresses = [stack.addresses.decoder]
        for number in range(2, decoders + 1):
            port = free_port()
            on_progress(f"decoder {number}")
            stack.start_decoder(f"decoder-{number}", port, free_port())
            addresses.append(f"127.0.0.1:{port}")

        bare = free_port()
        stack.start_decoder("bare decoder", bare, free_port(), ONE_THREAD)

        watched = {
            name: program.pid for name, program in stack.programs.items() if name != "embedding"
        }
        yield Target(tuple(addresses), stack.addresses.embedding, watched, f"127.0.0.1:{bare}")


def run(
    scenario: Scenario, target: Target, folder: Path, section: str, ceiling: float | None = None
) -> Run:
    """Make a load and judge it; takes scenario.seconds and 10 to 40 s more.

    Args:
        scenario: The load.
        target: The service.
        folder: Where samples.csv, summary.json and report.html are written.
        section: The section of thresholds.yaml to judge by.
        ceiling: The measured ceiling in clicks per second, for goodput_over_ceiling.

    Raises:
        LoadFailed: The generator failed or timed out.
        ValueError: The thresholds are invalid.
    """
    thresholds = read_thresholds(THRESHOLDS, section)

    order = Order(scenario, target.decoders, target.embedding, target.watched, folder, target.bare)
    _generate(write_order(order), scenario.seconds + scenario.timeout + SLACK)

    samples = read_samples(folder / SAMPLES)
    cores = json.loads((folder / GENERATOR).read_text())["cores"]
    statistics = figures(samples, scenario, ceiling)
    result = Run(scenario, samples, statistics, cores, judge(statistics, thresholds))

    summary = summary_of(result, target)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")

    plural = "s" if len(target.decoders) > 1 else ""
    title = f"samserve load: {section}, {len(target.decoders)} decoder{plural}"
    (folder / "report.html").write_text(page(title, scenario, samples, summary, result.results))
    return result


def summary_of(result: Run, target: Target) -> dict[str, Any]:
    """Return the content of summary.json."""
    kinds = sorted({sample.kind for sample in result.samples})
    verdict = [{**asdict(threshold), "holds": threshold.holds} for threshold in result.results]
    return {
        "holds": result.holds,
        "verdict": verdict,
        "figures": result.figures,
        "codes": {kind: codes(of_kinds(result.samples, [kind])) for kind in kinds},
        "cores": result.cores,
        "scenario": asdict(result.scenario),
        "decoders": list(target.decoders),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    processor = names[0].split(":", 1)[1].strip() if names else platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()}


def _generate(order: Path, seconds: float) -> None:
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": python_path}
    command = [sys.executable, "-m", "loadtest.load.traffic.generator", str(order)]

    try:
        process = subprocess.run(
            command, env=environment, timeout=seconds, stderr=subprocess.PIPE, text=True
        )
    except subprocess.TimeoutExpired as timeout:
        raise LoadFailed(f"the load generator did not finish within {seconds:g} s") from timeout

    if process.returncode:
        log = process.stderr.strip()[-2000:]
        raise LoadFailed(f"the load generator exited with code {process.returncode}: {log}")
