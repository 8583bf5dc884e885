"""What every benchmark shares: rows of ratios, the table, the JSON file, timing in turn, memory."""

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
Work = Callable[[], object]
BURST = 3.0  # seconds of calls for a throughput
IDLE = 0.05  # seconds before each work, in which the threads of the one before it stop spinning


@dataclass(frozen=True, slots=True)
class Row:
    """A median beside what it is compared with; goal is "<= X", ">= X" or empty, and speaks of the ratio."""

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
        if not self.goal:
            return None
        sign, number = self.goal.split()
        return self.ratio <= float(number) if sign == "<=" else self.ratio >= float(number)


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Milliseconds of each work, run in turn, so that the machine's moods hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(IDLE)
            started = time.perf_counter()
            work()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(taken) for name, taken in times.items()}


def throughput(callers: list[Work]) -> float:
    """Works done per second, each caller in a thread of its own."""
    done, until = [0] * len(callers), time.perf_counter() + BURST

    def call(index: int, work: Work) -> None:
        while time.perf_counter() < until:
            work()
            done[index] += 1

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / BURST


def kilobytes(pid: int, field: str) -> int:
    """A field of /proc/PID/status: VmRSS, now, or VmHWM, the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def report(name: str, rows: list[Row]) -> None:
    """Print the table and write build/bench/NAME.json."""
    table = Table("what", "value", "against", "value ", "ratio", "goal")
    for row in rows:
        colour = {True: "[green]", False: "[red]", None: "[default]"}[row.holds]
        value, other = f"{row.value:.2f} {row.unit}", f"{row.baseline_value:.2f}"
        table.add_row(row.name, value, row.baseline, other, f"{colour}{row.ratio:.3f}[/]", row.goal)
    Console(width=150).print(table)
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    written = [{**asdict(row), "ratio": row.ratio, "holds": row.holds} for row in rows]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(
        json.dumps({"machine": machine, "rows": written}, indent=1) + "\n"
    )


def _processor() -> str:
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0].split(":", 1)[1].strip() if names else platform.machine()
