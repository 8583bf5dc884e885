"""Loads the compiled libraries, one per `kernel` folder and instruction set (build.py compiles them).

ctypes releases the interpreter's lock while a compiled function runs.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "fma", "f16c"},
}


def library(folder: Path) -> ctypes.CDLL:
    """Load a `kernel` folder's library for the best instruction set of this CPU. Raises OSError if none fits."""
    flags = processor_flags()
    level = next((level for level, needed in LEVELS.items() if needed <= flags), None)
    if level is None:
        raise OSError(f"samserve requires AVX2 and FMA, which this {platform.machine()} CPU lacks")
    return ctypes.CDLL(str(folder / f"kernel-{level}.so"))


def processor_flags() -> set[str]:
    """The instruction sets of this machine, by Linux's names."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()
