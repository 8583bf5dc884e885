"""Compiles the kernels, each library once per instruction set: run by the package build, and by `make kernel`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
PLANES, CELLS, TOKENS = (
    PACKAGE / file for file in ("core/kernel/planes.c", "decoder/kernel/cells.c", "decoder/kernel/tokens.c")
)
LIBRARIES = {PLANES: [PLANES], CELLS: [CELLS, TOKENS]}
LEVELS = ("x86-64-v3", "x86-64-v4")
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-mprefer-vector-width=512",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # wide vectors between functions: all of them are inlined
]


def compiler_here() -> list[str] | None:
    """A C compiler of this machine, if it has one."""
    return next(([name] for name in ("gcc", "clang") if shutil.which(name)), None)


def build() -> None:
    """Write NAME-LEVEL.so beside the C file it is named for, with this machine's compiler or else ziglang's."""
    here = compiler_here()
    command = here or [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    for source, files in LIBRARIES.items():
        for level in LEVELS:
            machine = f"-march={level}" if here else f"-mcpu={level.replace('-', '_')}"
            library = source.with_name(f"{source.stem}-{level}.so")
            part = library.with_suffix(".so.part")
            subprocess.run([*command, *FLAGS, machine, *map(str, files), "-o", str(part), "-lm"], check=True)
            part.replace(library)


if __name__ == "__main__":
    build()
