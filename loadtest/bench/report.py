"""Shared parts of the benchmarks: timing in turn, rows of ratios, the table and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path("build/bench")
BURST = 3.0  # seconds of calls for a throughput
IDLE = 0.05  # seconds before each call, in which threads of the previous one stop spinning

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """A measured value beside its baseline.

    Attributes:
        name: What was measured.
        value: Usually a median.
        unit: Unit of both values.
        baseline: What it is compared with.
        baseline_value: The baseline's value.
        goal: "<= X" or ">= X" for the ratio, or empty.
    """

    name: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    goal: str = ""

    @property
    def ratio(self) -> float:
        return self.value / self.baseline_value

    @property
    def holds(self) -> bool | None:
        """Whether the ratio reaches the goal; None without one."""
        if not self.goal:
            return None

        sign, number = self.goal.split()
        return self.ratio <= float(number) if sign == "<=" else self.ratio >= float(number)


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Time several works in turn, so that drift of the machine affects all alike.

    Returns:
        The median of each in milliseconds, after one run that does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()

    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(IDLE)
            started = time.perf_counter()
            work()
            times[name].append(1000 * (time.perf_counter() - started))

    return {name: statistics.median(values) for name, values in times.items()}


def throughput(callers: list[Work]) -> float:
    """Calls per second of concurrent callers, each in its own thread."""
    counts = [0] * len(callers)
    until = time.perf_counter() + BURST

    def call(index: int, work: Work) -> None:
        while time.perf_counter() < until:
            work()
            counts[index] += 1

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    return sum(counts) / BURST


def kilobytes(pid: int, field: str) -> int:
    """A field of /proc/PID/status: VmRSS (resident now) or VmHWM (peak)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def report(name: str, rows: list[Row]) -> None:
    """Print the table and write build/bench/NAME.json."""
    table = Table("measured", "value", "baseline", "value ", "ratio", "goal")
    for row in rows:
        color = {True: "[green]", False: "[red]", None: "[default]"}[row.holds]
        value = f"{row.value:.2f} {row.unit}"
        baseline_value = f"{row.baseline_value:.2f}"
        ratio = f"{color}{row.ratio:.3f}[/]"
        table.add_row(row.name, value, row.baseline, baseline_value, ratio, row.goal)
    Console(width=150).print(table)

    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    values = [{**asdict(row), "ratio": row.ratio, "holds": row.holds} for row in rows]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(
        json.dumps({"machine": machine, "rows": values}, indent=1) + "\n"
    )


def _processor() -> str:
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0].split(":", 1)[1].strip() if names else platform.machine()
