"""Loads the compiled kernels: one library for each `kernel` folder and instruction set.

build.py compiles them. ctypes releases the interpreter's lock while a compiled function runs.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

# Instruction sets, the best first, with the CPU flags that each needs.
LEVELS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "fma", "f16c"},
}


def library(folder: Path) -> ctypes.CDLL:
    """Load the library of a `kernel` folder for the best instruction set of this CPU.

    Raises:
        OSError: The CPU supports none of the instruction sets.
    """
    flags = processor_flags()
    level = next((level for level, needed in LEVELS.items() if needed <= flags), None)
    if level is None:
        raise OSError(f"samserve requires AVX2 and FMA, which this {platform.machine()} CPU lacks")

    return ctypes.CDLL(str(folder / f"kernel-{level}.so"))


def processor_flags() -> set[str]:
    """Return the instruction sets of this CPU, by Linux's names."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()
