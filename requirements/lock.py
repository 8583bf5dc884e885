"""Writes the hashes of all packages: `make lock`, after a change of their versions.

constraints.txt names the versions. A file beside this script has the packages of some extras, each
with the hashes of all its files, for every Python and platform that is supported. `pip` then takes
nothing else. torch is left out: its builds come from several sources and have different hashes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
UNHASHED = ("torch",)
OLDEST_PYTHON = "3.11"
SETS = {
    "local": ("local",),
    "dev": ("dev", "train"),
    "decoder": ("decoder", "tracing"),
    "embedding": ("embedding", "tracing"),
    "gateway": ("gateway", "tracing"),
    "edge": ("edge", "identity"),
    "supply": ("supply",),
}
HEADER = """\
# Written by requirements/lock.py from pyproject.toml and constraints.txt: make lock
"""


def project() -> dict[str, list[str]]:
    """Return the requirements of the project itself, as "", and of its extras."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def requirements(extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield what some extras require, and the project itself, without what is unhashed."""
    known = project()
    for extra in extras:
        for line in known[extra]:
            requirement = Requirement(line)
            if requirement.name == "samserve":
                yield from requirements(sorted(requirement.extras))
            elif requirement.name not in UNHASHED:
                yield requirement


def lock(name: str) -> None:
    """Write the file of one set."""
    own = () if name == "supply" else ("",)  # the tools are no part of the project
    listed = sorted({str(each) for each in requirements((*own, *SETS[name]))})
    # A package that needs torch must not bring its CUDA libraries, of gigabytes.
    overrides = ROOT / "build" / "overrides.txt"
    overrides.parent.mkdir(exist_ok=True)
    overrides.write_text("".join(f"{each}; python_version < '3'\n" for each in UNHASHED))

    command = [
        "uv", "pip", "compile", "-", "--quiet", "--universal", "--generate-hashes",
        "--no-header", "--no-annotate", "--no-emit-index-url",
        "--python-version", OLDEST_PYTHON,
        "--constraint", str(ROOT / "constraints.txt"),
        "--override", str(overrides),
    ]  # fmt: skip
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(
        command,
        input="\n".join(listed),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        sys.exit(f"uv could not lock {name}: {done.stderr}")
    (ROOT / "requirements" / f"{name}.txt").write_text(HEADER + done.stdout)


def main() -> None:
    for name in SETS:
        lock(name)


if __name__ == "__main__":
    main()
