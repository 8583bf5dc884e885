"""Compiles each `kernel` folder once per instruction set.

Run by the package build and by `make kernel`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
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
    "-Wno-psabi",  # functions that pass wide vectors are all inlined
]


def local_compiler() -> list[str] | None:
    """Return a C compiler of this machine, if it has one."""
    return next(([name] for name in ("gcc", "clang") if shutil.which(name)), None)


def kernel_folders() -> list[Path]:
    """Return every folder named `kernel` with C files; its files become one library."""
    return sorted(path for path in PACKAGE.rglob("kernel") if any(path.glob("*.c")))


def build(*, force: bool = False, extra: Sequence[str] = ()) -> None:
    """Write kernel-LEVEL.so into each folder, with a local compiler or else ziglang's.

    Args:
        force: Also compile libraries that are newer than their sources.
        extra: More flags for the compiler.
    """
    local = local_compiler()
    command = local or [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]

    for folder in kernel_folders():
        sources = sorted(map(str, folder.glob("*.c")))

        for level in LEVELS:
            library = folder / f"kernel-{level}.so"
            if not force and _is_current(library):
                continue

            machine = f"-march={level}" if local else f"-mcpu={level.replace('-', '_')}"

            # Replace the library only once it is complete.
            part = library.with_suffix(".so.part")
            subprocess.run(
                [*command, *FLAGS, *extra, machine, *sources, "-o", str(part), "-lm"], check=True
            )
            part.replace(library)


def _is_current(library: Path) -> bool:
    inputs = [Path(__file__), *library.parent.glob("*.[ch]")]
    return library.exists() and library.stat().st_mtime >= max(f.stat().st_mtime for f in inputs)


if __name__ == "__main__":
    build(force=True)
