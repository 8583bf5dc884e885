"""CPU time of processes and of the whole machine."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process since its start, over all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def machine_busy() -> float:
    """Busy CPU seconds of all cores together since the machine booted."""
    cpu_line = Path("/proc/stat").read_text().split("\n", 1)[0]
    times = [int(field) for field in cpu_line.split()[1:9]]
    idle, iowait = times[3], times[4]
    return (sum(times) - idle - iowait) / TICK
