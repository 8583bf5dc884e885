"""Compiles each kernel folder once per instruction set: run by the package build and by `make kernel`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
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


def kernel_folders() -> list[Path]:
    """Every folder of the package that is named `kernel`: the C files in one become one library."""
    return sorted(path for path in PACKAGE.rglob("kernel") if any(path.glob("*.c")))


def build(*, force: bool = False) -> None:
    """Write kernel-LEVEL.so into each kernel folder, with this machine's compiler or else ziglang's.

    Args:
        force: Compile libraries too that are newer than their sources.
    """
    here = compiler_here()
    command = here or [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]

    for folder in kernel_folders():
        sources = sorted(map(str, folder.glob("*.c")))

        for level in LEVELS:
            library = folder / f"kernel-{level}.so"
            if not force and _is_current(library):
                continue

            machine = f"-march={level}" if here else f"-mcpu={level.replace('-', '_')}"
            part = library.with_suffix(".so.part")
            subprocess.run([*command, *FLAGS, machine, *sources, "-o", str(part), "-lm"], check=True)
            part.replace(library)


def _is_current(library: Path) -> bool:
    inputs = [Path(__file__), *library.parent.glob("*.[ch]")]
    return library.exists() and library.stat().st_mtime >= max(f.stat().st_mtime for f in inputs)


if __name__ == "__main__":
    build(force=True)
