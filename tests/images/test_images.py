"""The images, built without Docker and run as the chart and compose run them: minutes, and root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import ROOT

TOOL = ROOT / "deploy" / "images"
sys.path.insert(0, str(TOOL))

from engine import missing  # noqa: E402


def test_the_images_are_built_and_give_a_mask(tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    if not os.environ.get("IMAGES"):
        pytest.skip("set IMAGES=1 to build the images for minutes (`make images`)")

    process = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    for start in ("decoder:", "embedding:", "triton:", "pods: a mask of", "compose: a mask of"):
        assert f"\n{start}" in f"\n{process.stdout}", process.stdout[-3000:]


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert missing() == "not installed: buildah, podman, runc, debootstrap"
