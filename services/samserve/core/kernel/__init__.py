"""Compiled passes over arrays, one library per C file and instruction set (build.py compiles them).

ctypes lets go of the interpreter's lock while one runs.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "fma", "f16c"},
}


def library(source: Path) -> ctypes.CDLL:
    """What SOURCE.c became for the best instruction set that this processor has. Raises OSError if it has none."""
    flags = processor_flags()
    level = next((level for level, needed in LEVELS.items() if needed <= flags), None)
    if level is None:
        raise OSError(f"samserve needs a processor with AVX2 and FMA; this {platform.machine()} has not both")
    return ctypes.CDLL(str(source.with_name(f"{source.stem}-{level}.so")))


def processor_flags() -> set[str]:
    """The instruction sets of this machine, by Linux's names."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()
