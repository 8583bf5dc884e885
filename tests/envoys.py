"""Envoy as the tests run it, and services behind it that only count."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from samserve.edge.__main__ import command, write
from samserve.infra.settings import EdgeSettings


def edge_settings(**values: object) -> EdgeSettings:
    """The settings of an environment that has only these; their names without the prefix."""
    kept = {"PATH": os.environ.get("PATH", os.defpath)}
    given = {name: str(value) for name, value in values.items()}
    old = dict(os.environ)
    os.environ.clear()
    os.environ.update(kept | given)
    try:
        return EdgeSettings()
    finally:
        os.environ.clear()
        os.environ.update(old)


def complaints(settings: EdgeSettings, folder: Path) -> str:
    """What Envoy has to say against the configuration; empty if it accepts it silently."""
    words = command(settings, write(settings, folder), validate=True)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if '"level":"info"' not in line]
    return "\n".join([*warnings, *([] if done.returncode == 0 else [done.stdout])])


def environment_of(container: Mapping[str, object]) -> dict[str, str]:
    """The variables of a container of the chart or of compose that have a value there."""
    listed = container["env"]
    assert isinstance(listed, list)
    return {entry["name"]: str(entry["value"]) for entry in listed if "value" in entry}
