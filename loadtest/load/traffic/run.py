"""One load from beginning to end: against what, the generator's process, what came of it, judged and written."""

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
from loadtest.load.traffic.verdict import Judged, figures, judge, read_thresholds

ROOT = Path(__file__).resolve().parents[3]
THRESHOLDS = Path(__file__).resolve().parents[1] / "thresholds.yaml"
ONE_THREAD = {"SAMSERVE_DECODE_THREADS": 1}
SLACK = 240.0  # seconds a load may take besides its own: pictures embedded, decoders warmed, last answers awaited


class LoadFailed(RuntimeError):
    """No load could be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """decoders, embedding: HOST:PORT. watched: its processes on this machine, by name. bare: a decoder of one thread,
    which gets no load and tells what a decode takes; empty: there is none.
    """

    decoders: tuple[str, ...]
    embedding: str
    watched: dict[str, int]
    bare: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a load. cores: processor seconds a second of each watched process, of the
    generator and of the whole machine."""

    scenario: Scenario
    samples: list[Sample]
    figures: dict[str, float | None]
    cores: dict[str, float]
    judged: list[Judged]

    @property
    def holds(self) -> bool:
        return all(one.holds for one in self.judged)


@contextmanager
def local_target(decoders: int, tell: Callable[[str], None] = lambda _: None) -> Iterator[Target]:
    """A stack on this machine with so many decoders, for the length of a block; about 20 s to start."""
    with running(StackOptions(), tell) as stack:
        addresses = [stack.addresses.decoder]
        for number in range(2, decoders + 1):
            port = free_port()
            tell(f"decoder {number}")
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
    """Make the load, judge it by a section of thresholds.yaml, write samples.csv, summary.json and report.html to the
    folder. Takes scenario.seconds and 10 to 40 s more. Raises LoadFailed, and ValueError for thresholds that are wrong.
    """
    thresholds = read_thresholds(THRESHOLDS, section)
    order = write_order(
        Order(scenario, target.decoders, target.embedding, target.watched, folder, target.bare)
    )
    _generate(order, scenario.seconds + scenario.timeout + SLACK)
    samples = read_samples(folder / SAMPLES)
    cores = json.loads((folder / GENERATOR).read_text())["cores"]
    found = figures(samples, scenario, ceiling)
    done = Run(scenario, samples, found, cores, judge(found, thresholds))
    summary = summary_of(done, target)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    title = f"samserve load: {section}, {len(target.decoders)} decoder{'s' * (len(target.decoders) > 1)}"
    (folder / "report.html").write_text(page(title, scenario, samples, summary, done.judged))
    return done


def summary_of(done: Run, target: Target) -> dict[str, Any]:
    """The run for machines."""
    kinds = sorted({sample.kind for sample in done.samples})
    return {
        "holds": done.holds,
        "verdict": [{**asdict(one), "holds": one.holds} for one in done.judged],
        "figures": done.figures,
        "codes": {kind: codes(of_kinds(done.samples, [kind])) for kind in kinds},
        "cores": done.cores,
        "scenario": asdict(done.scenario),
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
    environment: Mapping[str, str] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    command = [sys.executable, "-m", "loadtest.load.traffic.generator", str(order)]
    try:
        ended = subprocess.run(
            command, env=environment, timeout=seconds, stderr=subprocess.PIPE, text=True
        )
    except subprocess.TimeoutExpired as late:
        raise LoadFailed(f"the load generator was not done within {seconds:g} s") from late
    if ended.returncode:
        raise LoadFailed(
            f"the load generator ended with code {ended.returncode}: {ended.stderr.strip()[-2000:]}"
        )
