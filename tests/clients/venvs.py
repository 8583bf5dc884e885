"""Environments for other products' clients: their packages conflict with ours and each other's.

They are kept in the user's cache folder, as some have hundreds of megabytes.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

INSTALL_SECONDS = 1800.0
COMPLETE = "complete.txt"  # in an environment: the packages that were installed last


def clients_folder() -> Path:
    """Where the environments, and the data that is slow to make again, are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "samserve" / "clients"


def client_venv(name: str, packages: list[str]) -> Path:
    """Return the Python of an environment that has these packages; make it if necessary.

    Without the packages the test is skipped.

    Args:
        name: Of the environment, such as "label-studio".
        packages: As pip takes them, with versions: "label-studio==1.23.2".
    """
    folder = clients_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = "\n".join(sorted(packages))
        complete = folder / COMPLETE
        if not complete.is_file() or complete.read_text() != wanted or not python.exists():
            _install(folder, python, packages)
            complete.write_text(wanted)
    return python


def _install(folder: Path, python: Path, packages: list[str]) -> None:
    """Make the environment and install the packages, or skip the test."""
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    try:
        subprocess.run(
            [*command, *packages],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip took over {INSTALL_SECONDS:g} s to install {', '.join(packages)}")
    except subprocess.CalledProcessError as problem:
        lines = (problem.stderr or "").strip().splitlines() or ["no message"]
        version = ".".join(map(str, sys.version_info[:2]))
        pytest.skip(
            f"pip could not install {', '.join(packages)} for Python {version}: {lines[-1]}"
        )
