"""Runs the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer.

`PYTHONPATH=tests python -m sanitize`. The kernels are compiled into a copy of the package, so that
the checkout's own stay as they are. Without gcc and its libasan nothing is run, and it says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "sanitize" / "services"
FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
FLAGS += ["-fno-sanitize-recover=all", "-Wno-maybe-uninitialized"]
TESTS = [
    "tests/unit/codec",
    "tests/unit/decoder/masks/test_kernel.py",
    "tests/unit/decoder/masks/test_outline.py",
    "tests/unit/decoder/sam/test_kernel.py",
]
SKIPPED = "not opencv"  # whose own code the sanitizers stop
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # the interpreter keeps memory at its end
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def runtime() -> str:
    """Return the path of gcc's libasan, or an empty text if there is none."""
    if shutil.which("gcc") is None:
        return ""
    answer = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], stdout=subprocess.PIPE, text=True, check=True
    )
    path = Path(answer.stdout.strip())
    return str(path.resolve()) if path.is_absolute() and path.exists() else ""


def main() -> None:
    library = runtime()
    if not library:
        print("sanitize: skipped, since gcc or its libasan is missing")
        return

    # Libraries of an earlier run are kept; they are rebuilt if their sources are newer.
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "services", COPY, dirs_exist_ok=True, ignore=ignored)
    environment = os.environ | {"PYTHONPATH": f"{COPY}{os.pathsep}{ROOT / 'tests'}"}
    build = f"from samserve.native.build import build; build(extra={FLAGS!r})"
    subprocess.run([sys.executable, "-c", build], env=environment, check=True)

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        SKIPPED,
        *TESTS,
    ]
    command += sys.argv[1:]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | OPTIONS | {"LD_PRELOAD": library}, check=False
    )
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
