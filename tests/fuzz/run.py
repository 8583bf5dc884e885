"""Fuzzes one target in this process: `python -m fuzz.run TARGET STATS [libFuzzer's flags]`."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import atheris

MOST_CPU_S = 1.0  # of one input
REPORT_EVERY = 500  # inputs
PAGE_MIB = 4096 / 2**20


class SlowInput(Exception):
    """An input took more than a second of CPU."""


class Watch:
    """Counts inputs and measures them; an input that takes too long fails."""

    def __init__(self, check: Callable[[bytes], None], stats: Path) -> None:
        self._check = check
        self._stats = stats
        self._executions = 0
        self._slowest = 0.0
        self._memory = [memory_mib()]

    def __call__(self, data: bytes) -> None:
        before = time.process_time()
        self._check(data)
        seconds = time.process_time() - before

        self._executions += 1
        self._slowest = max(self._slowest, seconds)
        if self._executions % REPORT_EVERY == 0:
            self._memory.append(memory_mib())
            self._write()
        # The first inputs fill caches.
        if seconds > MOST_CPU_S and self._executions > REPORT_EVERY:
            raise SlowInput(f"{seconds:.2f} s of CPU")

    def _write(self) -> None:
        warm = self._memory[min(len(self._memory) - 1, 1 + len(self._memory) // 10)]
        facts = {
            "executions": self._executions,
            "slowest_ms": round(1000 * self._slowest, 1),
            "growth_mib": round(self._memory[-1] - warm, 1),
        }
        self._stats.write_text(json.dumps(facts))


def memory_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MIB


def main() -> None:
    _, target, stats, *flags = sys.argv
    with atheris.instrument_imports(include=["samserve", "PIL"]):
        module = importlib.import_module(f"fuzz.targets.{target}")

    limits = [f"-max_len={module.MOST_BYTES}", "-timeout=60", "-rss_limit_mb=3000"]
    atheris.Setup([sys.argv[0], *limits, *flags], Watch(module.check, Path(stats)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
