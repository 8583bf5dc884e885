"""The wheel: built, installed into an empty environment, and used outside the repository."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "coins.png"
SECONDS = 900  # for one command; installing takes minutes on a busy machine


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, **options
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def samserve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command of an environment that holds nothing but the wheel and its needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")

    run(sys.executable, "-m", "venv", folder / "environment")
    python = folder / "environment" / "bin" / "python"
    needs = ["--no-compile", "--constraint", ROOT / "constraints.txt", f"{wheel}[local]"]
    run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *needs)
    return python.with_name("samserve")


def test_an_installed_wheel_runs_the_stack_and_answers_a_click(
    samserve: Path, tmp_path: Path
) -> None:
    kept = ("PATH", "HOME", "TMPDIR", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    outside = {"env": environment, "cwd": tmp_path}

    command = [samserve, "up", "--embedding-port", "0", "--decoder-port", "0"]
    up = subprocess.Popen(command, **outside, stderr=subprocess.PIPE, text=True)
    try:
        run(samserve, "status", "--wait", SECONDS // 2, **outside)
        answer = run(samserve, "segment", EXAMPLE, "--point", "213,193", "--json", **outside)
    finally:
        up.send_signal(signal.SIGINT)
        _, log = up.communicate(timeout=SECONDS)

    assert up.returncode == 0, log
    masks = json.loads(answer)["masks"]
    assert len(masks) == 3
    assert masks[0]["area"] > 0
