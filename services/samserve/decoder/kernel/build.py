"""Compiles cells.c and tokens.c, once per instruction set: run by the package build, and by `make kernel`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = [FOLDER / "cells.c", FOLDER / "tokens.c"]
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
]


def compiler_here() -> list[str] | None:
    """A C compiler of this machine, if it has one."""
    return next(([name] for name in ("gcc", "clang") if shutil.which(name)), None)


def build() -> None:
    """Write cells-LEVEL.so beside them, with this machine's compiler or else that of the package ziglang."""
    here = compiler_here()
    for level in LEVELS:
        machine = f"-march={level}" if here else f"-mcpu={level.replace('-', '_')}"
        command = here or [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
        part = FOLDER / f"cells-{level}.so.part"
        subprocess.run([*command, *FLAGS, machine, *map(str, SOURCES), "-o", str(part), "-lm"], check=True)
        part.replace(FOLDER / f"cells-{level}.so")


if __name__ == "__main__":
    build()
